"""DARE's random drop in place of TIES' trim, then elect sign and merge (Yu et al., 2024; Yadav et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorakit.deltas.low_rank import LowRank
from lorakit.merging.dare import dropped
from lorakit.merging.kernel.terms import check_share, dense, nothing
from lorakit.merging.ties import elected


def merge(
    deltas: Sequence[LowRank | None],
    weights: Sequence[float],
    *,
    density: float = 0.5,
    generators: Sequence[np.random.Generator],
) -> np.ndarray:
    """density: the chance of an entry to stay, as in `dare`; the mean is taken as in `ties`."""
    check_share(density)
    kept = [weight * dropped(delta, density, generators[i]) for i, delta, weight in dense(deltas, weights)]
    return elected(kept, nothing(deltas))
