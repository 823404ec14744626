"""Drop and rescale: entries left out at random, the rest made up for it, summed (Yu et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorakit.deltas.low_rank import LowRank
from lorakit.merging.kernel.terms import check_share, dense, nothing


def merge(
    deltas: Sequence[LowRank | None],
    weights: Sequence[float],
    *,
    density: float = 0.5,
    generators: Sequence[np.random.Generator],
) -> np.ndarray:
    """density: the chance of an entry to stay; it is divided by it, so that the expected delta is the whole one."""
    check_share(density)
    result = nothing(deltas)
    for i, delta, weight in dense(deltas, weights):
        result += weight * dropped(delta, density, generators[i])
    return result


def dropped(delta: np.ndarray, keep: float | np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """delta / keep with chance `keep`, else 0; by entry, or all the same."""
    return delta / keep * (generator.random(delta.shape, np.float32) < keep)
