"""Two low-rank deltas that are the same but for rounding, compared without a decomposition."""

from __future__ import annotations

from typing import Any

from lorakit.deltas.low_rank import LowRank


def aligned_error(a: LowRank, b: LowRank) -> float | None:
    """||b - a|| / ||a|| where b's factors are a's, rounded and scaled; None where they are not, and QR must tell.

    With down_b = f down_a + e the difference is (up_b - up_a / f) (f down_a) + up_b e: two terms that are small
    themselves, so that Gram matrices of [out, 2r] and [2r, in] give their norm without cancellation.
    """
    if a.rank != b.rank or a.flat()[0].shape != b.flat()[0].shape:
        return None
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


def _inner(up_a: Any, down_a: Any, up_b: Any, down_b: Any) -> float:
    """The Frobenius inner product of two products."""
    return float(((up_a.T @ up_b) * (down_a @ down_b.T)).sum())
