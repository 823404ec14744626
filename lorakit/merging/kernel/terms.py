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
    width = sum(up.shape[1] for _, up, _, _ in found)
    ups = np.empty((found[0][1].shape[0], width), np.result_type(*(up for _, up, _, _ in found)))
    downs = np.empty((width, found[0][2].shape[1]), np.result_type(*(down for _, _, down, _ in found)))
    at = 0
    for _, up, down, weight in found:
        end, root = at + up.shape[1], abs(weight) ** 0.5
        np.multiply(up, weight / root, out=ups[:, at:end])
        np.multiply(down, root, out=downs[at:end])
        at = end
    return ups, downs


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
