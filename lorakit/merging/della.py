"""Drop by magnitude's rank at random, rescale, elect sign and merge: DELLA (Deep et al., 2024)."""

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
    spread: float = 0.2,
    generators: Sequence[np.random.Generator],
) -> np.ndarray:
    """The larger an entry within its row, the likelier it stays; each is divided by its own chance.

    density     the mean chance to stay
    spread      what lies between the chances of a row's smallest and largest entry, centred on the density; no more
                than keeps both within 0 and 1 (at density 1 nothing is dropped)
    """
    check_share(density)
    if not 0 <= spread < 2 * density:
        raise ValueError(f"spread must be from 0 to less than twice the density {density:g}, got {spread:g}")
    spread = min(spread, 2 * (1 - density))
    kept = [
        weight * dropped(delta, _chances(delta, density, spread), generators[i])
        for i, delta, weight in dense(deltas, weights)
    ]
    return elected(kept, nothing(deltas))


def _chances(delta: np.ndarray, density: float, spread: float) -> np.ndarray:
    """density - spread / 2 for a row's smallest entry, density + spread / 2 for its largest, evenly between."""
    width = delta.shape[1]
    places = np.linspace(density - spread / 2, density + spread / 2, width).astype(delta.dtype)
    if width == 1:
        places = np.full(1, density, delta.dtype)
    chances = np.empty_like(delta)
    np.put_along_axis(chances, abs(delta).argsort(axis=1, kind="stable"), np.broadcast_to(places, delta.shape), axis=1)
    return chances
