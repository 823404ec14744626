"""One target module merged, and cut to a rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import ModuleType
from typing import Any

from torch import Tensor

from lorakit.deltas.low_rank import LowRank
from lorakit.lowrank.decomposed import Decomposed
from lorakit.lowrank.ranks import Rule, allot
from lorakit.lowrank.sums import decompose, independent, norm, of_dense

_ZERO = 1e-6  # of the largest term: what is left of terms that cancel
_SUSPECT = 1e-3  # a sum this much below its terms is looked at


@dataclass(frozen=True)
class Made:
    """What a module became: nothing, factors kept whole, or triplets of which a budget will say how many."""

    low: LowRank | None = None
    found: Decomposed | None = None
    error: float = 0.0

    def at(self, rank: int) -> Made:
        if self.found is None or rank == 0:
            return Made(error=1.0 if self.found is not None and len(self.found.s) else 0.0)
        return Made(self.found.cut(rank), None, self.found.error(rank))


def merged(
    method: ModuleType, deltas: Sequence[LowRank | None], weights: Sequence[float], settings: Mapping[str, Any],
    rule: Rule | None,
) -> Made:  # fmt: skip
    """The deltas of one module merged.

    rule    None is `full` where the sum is low rank, and elsewhere the sum of the adapters' ranks; for a budget the
            triplets come back uncut
    """
    shape = shape_of(deltas)
    product = method.merge(deltas, weights, **settings)
    if isinstance(product, Tensor):
        if not product.any():
            return Made()
        ranks = sum(delta.rank for delta, weight in zip(deltas, weights, strict=True) if delta is not None and weight)
        rule = rule or Rule("fixed", max(1, ranks))
        return _cut(of_dense(product, shape, ranks if rule.kind == "budget" else _most(rule)), rule)
    up, down = product
    rule = rule or Rule("full")
    if up.shape[1] == 0:
        return Made()
    whole = rule.kind == "full" or (rule.kind == "fixed" and up.shape[1] <= rule.value)
    if whole and (rule.cap is None or up.shape[1] <= rule.cap):
        # Factors that are independent on both sides do not cancel.
        as_is = getattr(method, "AS_IS", False)
        if as_is and _cancels(norm(up, down), up, down, deltas, weights):
            return Made()
        if as_is or independent(up, down):
            return Made(_low(up, down, shape))
    found = decompose(up, down, shape, _most(rule))
    if _cancels(found.total**0.5, up, down, deltas, weights):
        return Made()
    return _cut(found, rule)


def shape_of(deltas: Sequence[LowRank | None]) -> tuple[int, ...]:
    """The weight's shape; ValueError where two differ. A 1x1 convolution and a linear layer are the same."""
    shapes = {delta.shape for delta in deltas if delta is not None}
    if len({(shape[0], prod(shape[1:])) for shape in shapes}) > 1:
        raise ValueError(" and ".join(sorted("x".join(map(str, shape)) for shape in shapes)))
    return max(shapes, key=len)


def _most(rule: Rule) -> int | None:
    most = int(rule.value) if rule.kind == "fixed" else None
    return min(most or rule.cap, rule.cap) if rule.cap is not None else most


def _cut(found: Decomposed, rule: Rule) -> Made:
    if rule.kind == "budget":
        return Made(found=found) if len(found.s) else Made()
    return Made(found=found).at(allot({"": found}, rule)[""])


def _cancels(left: float, up: Tensor, down: Tensor, deltas: Sequence[LowRank | None], weights: Sequence[float]) -> bool:
    """Whether the norm that is left of a sum of terms is their rounding."""
    if left > _SUSPECT * float((up.norm(dim=0) * down.norm(dim=1)).max()):
        return False
    terms = (abs(w) * norm(*d.factors()) for d, w in zip(deltas, weights, strict=True) if d is not None and w)
    return left <= _ZERO * max(terms, default=0.0)


def _low(up: Tensor, down: Tensor, shape: tuple[int, ...]) -> LowRank:
    r = up.shape[1]
    return LowRank(down.float().reshape(r, *shape[1:]), up.float().reshape(-1, r, *[1] * (len(shape) - 2)), float(r))
