"""Trim, elect sign, merge (Yadav et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorakit.deltas.low_rank import LowRank
from lorakit.merging.kernel.terms import check_share, dense, nothing
from lorakit.merging.magnitude import trimmed


def merge(deltas: Sequence[LowRank | None], weights: Sequence[float], *, density: float = 0.5) -> np.ndarray:
    """Each entry is the mean of those weighted deltas that have the sign of their sum there, among those not trimmed.

    density     the share of entries that each delta keeps, by absolute value, in this module (the paper: 0.2, of the
                whole model)

    A mean and not a sum, as in the paper: two equal adapters at weight 1 give that adapter.
    """
    check_share(density)
    return elected([weight * trimmed(delta, density) for _, delta, weight in dense(deltas, weights)], nothing(deltas))


def elected(kept: Sequence[np.ndarray], zero: np.ndarray) -> np.ndarray:
    """The disjoint mean: of the entries whose sign is that of the sum, over the deltas that have one."""
    sign, total, count = zero.copy(), zero.copy(), zero.copy()
    for delta in kept:
        sign += delta
    for delta in kept:
        agrees = np.sign(delta) * np.sign(sign) > 0
        total += delta * agrees
        count += agrees
    return total / np.maximum(count, 1)
