"""One target module merged, and cut to a rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from lorakit.algebra import gram_norm
from lorakit.deltas.low_rank import LowRank
from lorakit.lowrank.decomposed import Decomposed
from lorakit.lowrank.ranks import RankRule, allot
from lorakit.lowrank.sums import decompose, independent, of_dense
from lorakit.merging.kernel.terms import Factors

_ZERO = 1e-6  # of the largest term: what is left of terms that cancel
_SUSPECT = 1e-3  # a sum this much below its terms is looked at


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a module became: nothing, factors kept whole, or triplets of which a budget will say how many.

    error         ||merged - kept|| / ||merged||
    norm, values  Frobenius norm and singular values of the merged delta, where they were asked for
    """

    low: LowRank | None = None
    found: Decomposed | None = None
    error: float = 0.0
    norm: float = 0.0
    values: tuple[float, ...] = ()

    def at(self, rank: int) -> Made:
        if self.found is None or rank == 0:
            lost = 1.0 if self.found is not None and len(self.found.s) else 0.0
            return Made(error=lost, norm=self.norm, values=self.values)
        return Made(
            low=self.found.cut(rank), found=None, error=self.found.error(rank), norm=self.norm, values=self.values
        )


def product_of(
    method: ModuleType, deltas: Sequence[LowRank | None], weights: Sequence[float], settings: Mapping[str, Any]
) -> Factors | np.ndarray:
    """The whole merged delta, exactly: factors where the method gives them, else dense; nothing where terms cancel."""
    product = method.merge(deltas, weights, **settings)
    if isinstance(product, np.ndarray):
        return product
    up, down = product
    if up.shape[1] and _cancels(gram_norm(up, down), up, down, deltas, weights):
        return up[:, :0], down[:0]
    return product


def merged(
    method: ModuleType,
    deltas: Sequence[LowRank | None],
    weights: Sequence[float],
    settings: Mapping[str, Any],
    rule: RankRule | None,
    spectra: bool = False,
) -> Made:
    """The deltas of one module merged.

    rule     None is `full` where the sum is low rank, and elsewhere the sum of the adapters' ranks; for a budget the
             triplets come back uncut
    spectra  norm and singular values are wanted too
    """
    shape = shape_of(deltas)
    product = method.merge(deltas, weights, **settings)
    if isinstance(product, np.ndarray):
        if not product.any():
            return Made()
        ranks = sum(delta.rank for delta, weight in zip(deltas, weights, strict=True) if delta is not None and weight)
        rule = rule or RankRule("fixed", max(1, min(ranks, *product.shape)))
        most = min(ranks, *product.shape) if rule.kind == "budget" else _most(rule)
        return _cut(of_dense(product, shape, most), rule, spectra)
    up, down = product
    rule = rule or RankRule("full")
    if up.shape[1] == 0:
        return Made()
    whole = rule.kind == "full" or (rule.kind == "fixed" and up.shape[1] <= rule.value)
    if whole and (rule.cap is None or up.shape[1] <= rule.cap):
        # Factors that are independent on both sides do not cancel.
        as_is = getattr(method, "AS_IS", False)
        if as_is and _cancels(gram_norm(up, down), up, down, deltas, weights):
            return Made()
        if as_is or independent(up, down):
            all_of_it = decompose(up, down, shape) if spectra else None
            seen = _seen(all_of_it) if all_of_it is not None else {}
            return Made(low=_low(up, down, shape), **seen)
    found = decompose(up, down, shape, _most(rule))
    if _cancels(found.total**0.5, up, down, deltas, weights):
        return Made()
    return _cut(found, rule, spectra)


def shape_of(deltas: Sequence[LowRank | None]) -> tuple[int, ...]:
    """The weight's shape; ValueError where two differ. A 1x1 convolution and a linear layer are the same."""
    shapes = {delta.shape for delta in deltas if delta is not None}
    if len({(shape[0], prod(shape[1:])) for shape in shapes}) > 1:
        raise ValueError(" and ".join(sorted("x".join(map(str, shape)) for shape in shapes)))
    return max(shapes, key=len)


def _most(rule: RankRule) -> int | None:
    most = int(rule.value) if rule.kind == "fixed" else None
    return min(most or rule.cap, rule.cap) if rule.cap is not None else most


def _seen(found: Decomposed) -> dict[str, Any]:
    return {"norm": found.total**0.5, "values": tuple(found.s.tolist())}


def _cut(found: Decomposed, rule: RankRule, spectra: bool) -> Made:
    made = Made(found=found, **(_seen(found) if spectra else {}))
    if rule.kind == "budget":
        return made if len(found.s) else Made()
    return made.at(allot({"": found}, rule)[""])


def _cancels(
    left: float, up: np.ndarray, down: np.ndarray, deltas: Sequence[LowRank | None], weights: Sequence[float]
) -> bool:
    """Whether the norm that is left of a sum of terms is their rounding."""
    sizes = np.einsum("or,or->r", up, up) * np.einsum("ri,ri->r", down, down)
    if left > _SUSPECT * float(sizes.max()) ** 0.5:
        return False
    terms = (abs(w) * gram_norm(*d.factors()) for d, w in zip(deltas, weights, strict=True) if d is not None and w)
    return left <= _ZERO * max(terms, default=0.0)


def _low(up: np.ndarray, down: np.ndarray, shape: tuple[int, ...]) -> LowRank:
    r = up.shape[1]
    up, down = up.astype("f4", copy=False), down.astype("f4", copy=False)
    return LowRank(down.reshape(r, *shape[1:]), up.reshape(-1, r, *[1] * (len(shape) - 2)), float(r))
