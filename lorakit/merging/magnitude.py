"""Only the largest entries of each delta, summed: magnitude pruning (Han et al., 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorakit.deltas.low_rank import LowRank
from lorakit.merging.kernel.terms import check_share, dense, nothing


def merge(deltas: Sequence[LowRank | None], weights: Sequence[float], *, density: float = 0.5) -> np.ndarray:
    """density: the share of entries that each delta keeps, by absolute value, in this module."""
    check_share(density)
    result = nothing(deltas)
    for _, delta, weight in dense(deltas, weights):
        result += weight * trimmed(delta, density)
    return result


def trimmed(delta: np.ndarray, density: float) -> np.ndarray:
    """The delta with all but the round(density * n), at least 1, largest entries set to 0."""
    drop = delta.size - max(1, round(density * delta.size))
    if drop == 0:
        return delta
    size = abs(delta)
    return delta * (size > np.partition(size, drop - 1, axis=None)[drop - 1])
