"""Matrices in numpy or torch alike: what the two name differently, and the products that kinds of delta share."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from lorakit.arrays import Array, Stored, floats, is_torch


def lib_of(x: Array) -> Any:
    """numpy or torch, whichever `floats(x)` is of."""
    return sys.modules["torch"] if is_torch(x) else np


def doubles(x: Array) -> Any:
    """The values in float64, in numpy or torch."""
    values = floats(x)
    return values.double() if is_torch(values) else values.astype("f8")


def beside(x: Array, other: Array) -> Any:
    """The values of `x` in the library and on the device of `other`."""
    if not is_torch(other):
        return floats(x).cpu().numpy() if is_torch(x) else floats(x)
    tensor = x.tensor() if isinstance(x, Stored) else x if is_torch(x) else lib_of(other).tensor(floats(x))
    return floats(tensor).to(other.device)


def as_type(x: Any, like: Any) -> Any:
    """`x` in the float type of `like`, both of one library."""
    return x.to(like.dtype) if is_torch(x) else x.astype(like.dtype, copy=False)


def eye(n: int, like: Any) -> Any:
    """The n x n identity in the type and on the device of `like`."""
    if is_torch(like):
        return lib_of(like).eye(n, dtype=like.dtype, device=like.device)
    return np.eye(n, dtype=like.dtype)


def kron(a: Any, b: Any) -> Any:
    """The Kronecker product of two matrices."""
    return (a[:, None, :, None] * b[None, :, None, :]).reshape(a.shape[0] * b.shape[0], a.shape[1] * b.shape[1])


def through(core: Any, down: Any) -> Any:
    """A Tucker core [m, n, *kernel] applied to down [n, in]: [m, in * prod(kernel)], laid out as a flat convolution."""
    m, n = core.shape[:2]
    return (core.reshape(m, n, -1).swapaxes(1, 2) @ down).swapaxes(1, 2).reshape(m, -1)


def gram_norm(up: Any, down: Any) -> float:
    """||up @ down|| by Gram matrices, in float64: (out + in) * r² work, no [out, in] matrix."""
    up, down = doubles(up), doubles(down)
    return max(0.0, float(((up.T @ up) * (down @ down.T)).sum())) ** 0.5


def product_norm(ups: list[Any], downs: list[Any]) -> float:
    """||sum of up @ down||, [out, r] and [r, in] each, by QR of both sides: large terms may cancel."""
    lib = lib_of(ups[0])
    r_up = lib.linalg.qr(lib.concatenate(ups, 1), mode="r")
    r_down = lib.linalg.qr(lib.concatenate(downs, 0).T, mode="r")
    r_up, r_down = (r[1] if isinstance(r, tuple) else r for r in (r_up, r_down))
    return float(((r_up @ r_down.T) ** 2).sum()) ** 0.5
