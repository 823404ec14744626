"""One module's delta to the adapter nearest to it, by whatever decides its rank."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

from lorakit.arrays import Array, is_torch
from lorakit.lowrank.certified import Certified, SpectrumRequest
from lorakit.lowrank.decomposed import Decomposed
from lorakit.lowrank.dense import DenseDelta
from lorakit.lowrank.gram import by_gram
from lorakit.lowrank.randomised import leading
from lorakit.lowrank.ranks import RankRule, allot
from lorakit.lowrank.taken import TakenModule, clamp, of_core, of_triplets, undecided
from lorakit.lowrank.tucker import core_of

_NARROW = 16  # channels: a kernel between fewer (the first, the last) has no core to speak of
Floor = Callable[[int, Decomposed | None], float]


@dataclass(frozen=True)
class Way:
    """How a module is decomposed.

    rule      what decides its rank
    exact     complete decompositions only
    tucker    kernels as up, core and down
    quantile  factors' values beyond this quantile are cut to it; None for none
    """

    rule: RankRule
    exact: bool = False
    tucker: bool = False
    quantile: float | None = None


def solve(name: str, delta: Array, way: Way, floor: Floor | None = None, squared: float | None = None) -> TakenModule:
    """What the rule takes of a delta [out, in] or [out, in, kh, kw], float32, in numpy or torch, not 0.

    floor    the noise of its unfolding by outputs (0) or inputs (1), once its triplets are known or before; for `auto`
    squared  its squared norm, where it is known
    """
    shape, rule = tuple(delta.shape), way.rule
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")
    if way.tucker and is_kernel(shape) and min(shape[:2]) >= _NARROW:
        return _tucker(name, delta, way, floor, seed)
    x = dense(delta.reshape(shape[0], -1), squared)
    least = floor(0, None) if floor is not None else 0.0
    found = triplets(x, shape, wanted_of(rule, shape, least), exact=way.exact, seed=seed)
    if floor is not None and least:
        found = replace(found, floor=floor(0, found))
    if rule.kind == "budget":
        return undecided(name, found, rule.cap)
    one = of_triplets(name, found, allot({name: found}, rule)[name])
    return one if way.quantile is None else clamp(one, x, way.quantile)


def dense(delta: Array, squared: float | None = None) -> DenseDelta:
    """A matrix where it lies: numpy, or torch on any device."""
    if is_torch(delta):
        from lorakit.lowrank.on_device import OnDevice

        return OnDevice(delta, squared)
    return DenseDelta(delta, squared)


def triplets(
    x: DenseDelta, shape: tuple[int, ...], wanted: SpectrumRequest, *, exact: bool, seed: int = 0
) -> Certified:
    """The leading triplets: by a random subspace where that is less work and can be proven good."""
    found = None if exact else leading(x, shape, wanted, seed)
    return by_gram(x, shape, wanted) if found is None else found


def wanted_of(rule: RankRule, shape: Sequence[int], floor: float = 0.0) -> SpectrumRequest:
    """What has to be found of a weight of this shape for the rule to be applied."""
    side = min(shape[0], prod(shape[1:]))
    most = min(side, rule.cap or side)
    if rule.kind == "fixed":
        return SpectrumRequest(min(most, int(rule.value)))
    if rule.kind == "energy":
        return SpectrumRequest(most, share=rule.value)
    return SpectrumRequest(most, floor=floor)


def is_kernel(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and shape[2] * shape[3] > 1


def _tucker(name: str, delta: Array, way: Way, floor: Floor | None, seed: int) -> TakenModule:
    rule = way.rule
    sides = min(delta.shape[:2])
    most = min(sides, rule.cap or sides, int(rule.value) if rule.kind == "fixed" else sides)
    core = core_of(delta, most, lambda x, shape, wanted: triplets(dense(x), shape, wanted, exact=way.exact, seed=seed))
    rank = core.most
    floors = (floor(0, None), floor(1, None)) if floor is not None else (0.0, 0.0)
    if rule.kind == "energy":
        rank = core.rank_for(rule.value)
    elif floors[0]:
        rank = min(rank, max(int((side.s > f).sum()) for side, f in zip((core.outer, core.inner), floors, strict=True)))
    return of_core(name, core, rank, tuple(delta.shape), floors[0])
