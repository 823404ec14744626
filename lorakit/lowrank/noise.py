"""Singular values that a difference of two checkpoints has from their rounding alone."""

from __future__ import annotations

import numpy as np

_BITS = {"F16": (11, 2.0**-14), "BF16": (8, 2.0**-126)}  # of the significand, and the least normal number
_MARGIN = 1.2  # rounding is not independent where a change is smaller than the steps: measured up to 1.15 in bfloat16
_SECOND = 1.5  # times the noise of one rounding: where what is left is above, there were two


def variances(weight: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """(rows [m], columns [n]): sums of ulp² / 12 over each, of values [m, n] float32 that were rounded to `dtype`.

    0 for types that are not half precision.
    """
    if dtype not in _BITS:
        return np.zeros(weight.shape[0]), np.zeros(weight.shape[1])
    digits, least = _BITS[dtype]
    powers = (np.ascontiguousarray(weight).view(np.int32) & 0x7F800000).view(np.float32)
    np.maximum(powers, least, out=powers)
    powers *= 2.0 ** (1 - digits)
    powers *= powers
    return powers.sum(1, dtype="f8") / 12, powers.sum(0, dtype="f8") / 12


def edge(rows: np.ndarray, columns: np.ndarray) -> float:
    """The largest singular value of independent noise whose variances have these sums.

    sqrt(m) + sqrt(n) times the deviation where all are alike (Marchenko and Pastur, 1967). Where some rows or columns
    have more of it, theirs count (Bandeira and van Handel, 2016).
    """
    return float(rows.max()) ** 0.5 + float(columns.max()) ** 0.5


def floor(
    tuned: np.ndarray,
    tuned_dtype: str,
    base: np.ndarray,
    base_dtype: str,
    s: np.ndarray | None = None,
    total: float = 0.0,
) -> float:
    """Singular values of tuned - base up to this are rounding noise; 0 where neither is in half precision.

    tuned, base   [m, n], the values as float32
    s, total      the leading singular values of the difference and its squared norm, where they are known

    Where both are in half precision the difference is of tuned's rounding alone if it was tuned from the stored base,
    and of both if not; what the difference has beyond its leading values tells which.
    """
    found = [variances(x, kind) for x, kind in ((tuned, tuned_dtype), (base, base_dtype)) if kind in _BITS]
    if not found:
        return 0.0
    if len(found) == 1 or tuned_dtype != base_dtype:
        rows, columns = (np.sum(sums, 0) for sums in zip(*found, strict=True))
        return _MARGIN * edge(rows, columns)
    one = _MARGIN * edge(*found[0])
    both = _MARGIN * edge(found[0][0] + found[1][0], found[0][1] + found[1][1])
    if s is None:
        return one
    signal = int((s > both).sum())
    m, n = tuned.shape
    expected = float(found[0][0].sum()) * (1 - signal / m) * (1 - signal / n)
    left = total - float((s[:signal].astype("f8") ** 2).sum())
    return both if left > _SECOND * expected else one
