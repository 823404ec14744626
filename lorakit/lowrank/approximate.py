"""Any delta as the nearest plain low-rank one, with the error that costs."""

from __future__ import annotations

import numpy as np

from lorakit.arrays import Array, floats, is_torch
from lorakit.delta import Delta
from lorakit.deltas.low_rank import LowRank


def as_low_rank(delta: Delta, rank: int | None, base: Array | None = None) -> tuple[LowRank, float]:
    """The LowRank nearest to `delta` in Frobenius norm, alpha = rank, and ||delta - it|| / ||delta||.

    rank    at most this; None for as many as the kind's own factors have, without loss
    base    the weight of the base model, for kinds that need it (NeedsBase without)

    Kinds that are products of factors never become dense: QR of both factors and a small SVD. Eckart and Young, 1936.
    """
    shape = delta.shape or (tuple(base.shape) if base is not None else None)
    if delta.narrow:
        up, down = (_double(x) for x in delta.factors(base))
        q_up, r_up = np.linalg.qr(up)
        q_down, r_down = np.linalg.qr(down.T)
        u, s, vh = np.linalg.svd(r_up @ r_down.T, full_matrices=False)
        u, vh = q_up @ u, vh @ q_down.T
    else:
        dense = _double(delta.delta(base))
        shape = tuple(dense.shape)
        u, s, vh = np.linalg.svd(dense.reshape(shape[0], -1), full_matrices=False)
    whole = float((s**2).sum())
    kept = max(1, int((s > s[0] * 1e-12).sum())) if whole else 1
    r = min(rank or kept, kept)
    root = np.sqrt(s[:r])
    kernel = shape[1:] if shape is not None else (vh.shape[1],)
    ones = (1,) * (len(kernel) - 1)
    low = LowRank(
        (root[:, None] * vh[:r]).astype(np.float32).reshape(r, *kernel),
        (u[:, :r] * root).astype(np.float32).reshape(-1, r, *ones),
        float(r),
    )
    return low, (float((s[r:] ** 2).sum()) / whole) ** 0.5 if whole else 0.0


def _double(x: Array) -> np.ndarray:
    values = floats(x)
    return values.double().numpy() if is_torch(values) else values.astype(np.float64)
