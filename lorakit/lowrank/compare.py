"""Two low-rank deltas that are the same but for rounding, compared without a decomposition."""

from __future__ import annotations

import math
from typing import Any

from lorakit.arrays import Stored, same_bytes, shifted
from lorakit.deltas.low_rank import LowRank


def aligned_error(a: LowRank, b: LowRank) -> float | None:
    """||b - a|| / ||a|| where b's factors are a's, rounded and scaled; None where they are not, and QR must tell.

    With down_b = f down_a + e the difference is (up_b - up_a / f) (f down_a) + up_b e: two terms that are small
    themselves, so that Gram matrices of [out, 2r] and [2r, in] give their norm without cancellation.
    """
    if a.rank != b.rank or tuple(a.up.shape[:2]) != tuple(b.up.shape[:2]):
        return None
    moved = _moved_error(a, b)
    if moved is not None:
        return moved
    (up_a, down_a), (up_b, down_b) = a.factors(), b.factors()
    largest = int(abs(down_a).argmax())
    value, fitted = float(down_a.reshape(-1)[largest]), float(down_b.reshape(-1)[largest])
    if value == 0 or fitted == 0:
        return None
    fit = fitted / value
    down = down_a * fit
    d_down, d_up = down_b - down, up_b - up_a * (1 / fit)
    if not d_down.any() and not d_up.any():
        return 0.0
    if float((d_down * d_down).sum()) > 1e-3 * float((down * down).sum()):
        return None
    squared = _inner(d_up, down, d_up, down) + _inner(up_b, d_down, up_b, d_down) + 2 * _inner(d_up, down, up_b, d_down)
    whole = _inner(up_a, down_a, up_a, down_a)
    return (max(0.0, squared) / whole) ** 0.5 if whole else None


def _moved_error(a: LowRank, b: LowRank) -> float | None:
    """The same for half-precision factors of files that differ by powers of two alone: bits compared, none calculated."""
    if not all(isinstance(x, Stored) and x.dtype in ("F16", "BF16") for x in (a.down, a.up, b.down, b.up)):
        return None
    ours, theirs = (_first(x) for x in (a.down, b.down))
    index = int(abs(ours).argmax())
    if not ours[index]:
        return None
    fit = float(theirs[index]) / float(ours[index])
    lost = 0.0
    for x, y, factor in ((a.down, b.down, fit), (a.up, b.up, a.scale / b.scale / fit if fit else 0.0)):
        mantissa, exponent = math.frexp(factor)
        if x.dtype != y.dtype or mantissa != 0.5:
            return None
        if factor == 1:
            if not same_bytes(x.raw(), y.raw()):
                return None
            continue
        found = shifted(x.raw(), x.dtype, exponent - 1)
        if found is None or not same_bytes(found[0], y.raw()):
            return None
        lost += found[1]
    return lost


def _first(x: Stored) -> Any:
    """The first few values."""
    count = min(64, math.prod(x.shape))
    return Stored(x.dtype, (count,), lambda: x.raw()[: 2 * count]).float()


def _inner(up_a: Any, down_a: Any, up_b: Any, down_b: Any) -> float:
    """The Frobenius inner product of two products."""
    return float(((up_a.T @ up_b) * (down_a @ down_b.T)).sum())
