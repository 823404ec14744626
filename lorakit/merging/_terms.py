"""What the methods share: the deltas that count, dense or as factors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorakit.deltas.low_rank import LowRank

Factors = tuple[np.ndarray, np.ndarray]


def terms(
    deltas: Sequence[LowRank | None], weights: Sequence[float]
) -> list[tuple[int, np.ndarray, np.ndarray, float]]:
    """(which adapter, up [out, r], down [r, in*kh*kw], weight with the delta's scale) of each that is not 0."""
    return [
        (i, *delta.flat(), weight * delta.scale)
        for i, (delta, weight) in enumerate(zip(deltas, weights, strict=True))
        if delta is not None and weight * delta.scale != 0
    ]


def stacked(found: Sequence[tuple[int, np.ndarray, np.ndarray, float]], deltas: Sequence[LowRank | None]) -> Factors:
    """The sum of the terms as factors side by side; each weight is split evenly over both, so that neither factor is
    much larger than its twin. No columns where there are no terms."""
    if not found:
        up, down = next(delta for delta in deltas if delta is not None).flat()
        return up[:, :0], down[:0]
    roots = [abs(weight) ** 0.5 for *_, weight in found]
    ups = [up * (weight / root) for (_, up, _, weight), root in zip(found, roots, strict=True)]
    downs = [down * root for (_, _, down, _), root in zip(found, roots, strict=True)]
    return np.concatenate(ups, 1), np.concatenate(downs, 0)


def dense(deltas: Sequence[LowRank | None], weights: Sequence[float]) -> list[tuple[int, np.ndarray, float]]:
    """(which adapter, its delta [out, in*kh*kw] without the weight, its weight) of each that is not 0."""
    found = terms(deltas, weights)
    return [(i, (up * (scaled / weights[i])) @ down, weights[i]) for i, up, down, scaled in found]


def nothing(deltas: Sequence[LowRank | None]) -> np.ndarray:
    """A delta that is 0."""
    up, down = next(delta for delta in deltas if delta is not None).flat()
    return np.zeros((up.shape[0], down.shape[1]), up.dtype)


def check_share(density: float) -> None:
    if not 0 < density <= 1:
        raise ValueError(f"density must be above 0 and at most 1, got {density:g}")
