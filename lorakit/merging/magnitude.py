"""Only the largest entries of each delta, summed: magnitude pruning (Han et al., 2015)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lorakit.deltas.low_rank import LowRank
from lorakit.merging._terms import check_share, dense, nothing


def merge(deltas: Sequence[LowRank | None], weights: Sequence[float], *, density: float = 0.5) -> Tensor:
    """density: the share of entries that each delta keeps, by absolute value, in this module."""
    check_share(density)
    result = nothing(deltas)
    for _, delta, weight in dense(deltas, weights):
        result += weight * trimmed(delta, density)
    return result


def trimmed(delta: Tensor, density: float) -> Tensor:
    """The delta with all but the round(density * n), at least 1, largest entries set to 0."""
    drop = delta.numel() - max(1, round(density * delta.numel()))
    if drop == 0:
        return delta
    size = delta.abs()
    return delta * (size > size.flatten().kthvalue(drop).values)
