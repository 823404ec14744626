"""What an extraction takes of each module: its adapter's delta, and how good that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lorakit.delta import Delta
from lorakit.deltas.low_rank import LowRank
from lorakit.lowrank.certified import Certified
from lorakit.lowrank.decomposed import Decomposed
from lorakit.lowrank.dense import DenseDelta
from lorakit.lowrank.ranks import RankRule, allot
from lorakit.lowrank.tucker import Core

_HEADER = 2500  # bytes of a file that belong to no module


@dataclass(frozen=True, kw_only=True)
class TakenModule:
    """One module's result. delta is None where nothing is above the rounding noise, or a budget left it out.

    found       the triplets, where a budget still has to decide
    kept        share of the squared norm, 0 to 1
    of_optimum  at least this share of what the best adapter of this rank holds
    excess      at most this above the best one's error, relative to the norm
    clamped     error that cutting the factors' values has added, relative to the norm
    """

    name: str
    shape: tuple[int, ...]
    delta: Delta | None
    rank: int
    kept: float
    of_optimum: float
    excess: float
    norm: float
    floor: float
    values: tuple[float, ...]
    found: Decomposed | None = None
    clamped: float = 0.0


def of_triplets(name: str, triplets: Decomposed, rank: int, found: Decomposed | None = None) -> TakenModule:
    """The first `rank` of them."""
    share, excess = 1.0, 0.0
    if isinstance(triplets, Certified):
        share, excess = triplets.of_optimum(rank), triplets.excess(rank)
    return TakenModule(
        name=name,
        shape=triplets.shape,
        delta=triplets.cut(rank) if rank else None,
        rank=rank,
        kept=triplets.kept(rank),
        of_optimum=share,
        excess=excess,
        norm=max(0.0, triplets.total) ** 0.5,
        floor=triplets.floor,
        values=tuple(triplets.s.tolist()),
        found=found,
    )


def undecided(name: str, triplets: Decomposed, most: int | None) -> TakenModule:
    """Nothing yet, and the first `most` triplets for a budget to choose from."""
    found = triplets
    if most is not None and most < len(triplets.s):
        found = replace(triplets, u=triplets.u[:, :most].copy(), s=triplets.s[:most], vh=triplets.vh[:most].copy())
    return of_triplets(name, triplets, 0, found)


def of_core(name: str, core: Core, rank: int, shape: tuple[int, ...], floor: float) -> TakenModule:
    """A kernel as up, core and down of this rank."""
    kept, excess = core.kept(rank), core.excess(rank)
    best = 1 - max(0.0, max(0.0, 1 - kept) ** 0.5 - excess) ** 2
    return TakenModule(
        name=name,
        shape=shape,
        delta=core.cut(rank) if rank else None,
        rank=rank,
        kept=kept,
        of_optimum=min(1.0, kept / best) if best else 1.0,
        excess=excess,
        norm=core.outer.total**0.5,
        floor=floor,
        values=tuple(core.outer.s.tolist()),
    )


def whole(name: str, delta: Delta) -> TakenModule:
    """A module that stays as it is."""
    norm = 0.0 if delta.needs_base else delta.norm()
    return TakenModule(
        name=name,
        shape=delta.shape or (),
        delta=delta,
        rank=delta.rank or 0,
        kept=1.0,
        of_optimum=1.0,
        excess=0.0,
        norm=norm,
        floor=0.0,
        values=(),
    )


def clamp(one: TakenModule, x: DenseDelta, quantile: float) -> TakenModule:
    """The module with its factors' values cut to a quantile of theirs, and what that does to it."""
    if not isinstance(one.delta, LowRank):
        return one
    low = one.delta.mapped(lambda values: _cut_to(values, quantile))
    before, after = ((x.missed(*delta.factors())) ** 0.5 / one.norm for delta in (one.delta, low))
    return replace(
        one, delta=low, kept=max(0.0, 1 - after**2), excess=one.excess + after - before, clamped=after - before
    )


def _cut_to(x: np.ndarray, quantile: float) -> np.ndarray:
    values = np.sort(np.abs(x), axis=None)
    limit = values[min(len(values) - 1, math.ceil(quantile * (len(values) - 1)))]
    return x.clip(-limit, limit)


def spread(found: Sequence[TakenModule], rule: RankRule, size: int) -> list[TakenModule]:
    """The ranks that fit into a file of the budget's bytes, keys and metadata included; `size` bytes a number.

    ValueError where it holds nothing.
    """
    a_module = 3 * (max((len(one.name) for one in found), default=0) + 120) + 4
    triplets = {one.name: one.found for one in found if one.found is not None}
    ranks = allot(triplets, RankRule("budget", max(0.0, rule.value - _HEADER), rule.cap), size, a_module)
    if triplets and not any(ranks.values()):
        raise ValueError(f"{rule.value:g} bytes hold nothing of the adapter")
    # The spectrum is of all that was found, the triplets of what the cap of a kernel left.
    return [
        replace(of_triplets(one.name, one.found, ranks[one.name]), values=one.values) if one.found is not None else one
        for one in found
    ]
