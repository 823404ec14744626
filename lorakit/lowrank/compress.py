"""Factors to fewer factors, in numpy or torch."""

from __future__ import annotations

from typing import Any

from lorakit.algebra import doubles, lib_of
from lorakit.arrays import is_torch


def spectrum(up: Any, down: Any) -> tuple[Any, Any, Any]:
    """The singular value decomposition of up @ down without forming it: QR of both factors and one small SVD.

    up [out, r], down [r, in], float; r may exceed out and in. Gives u [out, k], s [k], vh [k, in], k = min(r, out, in),
    in float32; computed in float64, because the factors of a sum may cancel.
    """
    linalg = lib_of(up).linalg
    q_up, r_up = linalg.qr(doubles(up))
    q_down, r_down = linalg.qr(doubles(down).T)
    u, s, vh = linalg.svd(r_up @ r_down.T, full_matrices=False)
    return single(q_up @ u), single(s), single(vh @ q_down.T)


def single(x: Any) -> Any:
    """The values in float32, in their library."""
    return x.float() if is_torch(x) else x.astype("f4", copy=False)


def compress(up: Any, down: Any, rank: int) -> tuple[Any, Any, float]:
    """The best factors of rank `rank` of up @ down, and the relative error in Frobenius norm.

    up [out, r], down [r, in]; gives up [out, k], down [k, in] with k = min(rank, r, out, in), balanced. Eckart and
    Young, 1936.
    """
    u, s, vh = spectrum(up, down)
    k = min(rank, len(s))
    root = s[:k] ** 0.5
    squares = doubles(s) ** 2
    total = float(squares.sum())
    error = (float(squares[k:].sum()) / total) ** 0.5 if total else 0.0
    return u[:, :k] * root, root[:, None] * vh[:k], error
