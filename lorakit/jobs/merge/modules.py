"""One target module of several adapters as one delta: cut for an adapter, or whole for a base model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from lorakit.arrays import Array, Stored
from lorakit.composition.module_weights import ModuleWeights
from lorakit.delta import Delta
from lorakit.deltas.low_rank import LowRank
from lorakit.errors import InputError, UsageError
from lorakit.formats.scaling import balanced
from lorakit.jobs.merge.sources import MergeInput
from lorakit.lowrank.decomposed import Decomposed
from lorakit.lowrank.ranks import RankRule
from lorakit.merging.kernel.draws import generator
from lorakit.merging.kernel.module import Made, merged, product_of
from lorakit.merging.kernel.operands import in_memory, is_vector, operand
from lorakit.registry import MERGE_METHODS


def checked_settings(method: str, given: Mapping[str, float], rows: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The method's settings, tried on a delta of one number: a wrong one is told before any work."""
    part = MERGE_METHODS[method]
    known = {name for name, p in inspect.signature(part.merge).parameters.items() if p.kind is p.KEYWORD_ONLY}
    draws = "generators" in known
    taken = (known - {"generators"}) | ({"seed"} if draws else set())
    for name in given:
        if name not in taken:
            others = f"it takes {', '.join(f'--{x}' for x in sorted(taken))}" if taken else "it has no settings"
            raise UsageError(f"--{name} means nothing to --method {method}: {others}")
    settings: dict[str, Any] = {name: value for name, value in given.items() if name != "seed"}
    one = LowRank(np.ones((1, 1)), np.ones((1, 1)), 1.0)
    for row in rows:
        trial = {"generators": [generator("trial") for _ in row]} if draws else {}
        try:
            part.merge([one] * len(row), row, **settings, **trial)
        except ValueError as error:
            raise UsageError(f"--method {method}: {error}") from error
    return settings


@dataclass(frozen=True, kw_only=True)
class MergePlan:
    """What makes a module's deltas one: the weights in each output, the method, its settings and its draws."""

    sources: Sequence[MergeInput]
    rows: Sequence[Sequence[float]]
    factors: ModuleWeights
    method: str
    settings: Mapping[str, Any]
    seed: float = 0

    @cached_property
    def part(self) -> ModuleType:
        return MERGE_METHODS[self.method]

    @cached_property
    def keys(self) -> list[str]:
        """What each adapter's draws depend on: not on its place, but on what it is."""
        seen: dict[str, int] = {}
        keys = []
        for source in self.sources:
            seen[source.sha256] = seen.get(source.sha256, 0) + 1
            keys.append(f"merge/{self.seed:g}/{source.sha256}/{seen[source.sha256]}")
        return keys

    def deltas(self, name: str) -> list[Delta | None]:
        return [source.adapter.modules.get(name) for source in self.sources]

    def weights(self, name: str, row: Sequence[float]) -> list[float]:
        return [weight * self.factors.factor(i, name) for i, weight in enumerate(row)]

    def of(self, name: str, vector: bool) -> tuple[ModuleType, dict[str, Any]]:
        """(method, settings, generators among them) for a module; vectors are summed whatever the method."""
        if vector:
            return MERGE_METHODS["linear"], {}
        draws = "generators" in inspect.signature(self.part.merge).parameters
        more = {"generators": [generator(key, name) for key in self.keys]} if draws else {}
        return self.part, {**self.settings, **more}

    def joined(self, name: str, row: Sequence[float]) -> Joined:
        """The module's delta in one output, whole, worked out when it is asked for."""
        return Joined(name, self, tuple(row), tuple(self.deltas(name)))


@dataclass(frozen=True)
class Joined(Delta):
    """The delta that a merge makes of one module's deltas, uncut; its terms are read at each use."""

    kind: ClassVar[str] = "merged"
    needs_base: ClassVar[bool] = True

    name: str
    how: MergePlan
    row: tuple[float, ...]
    terms: tuple[Delta | None, ...]

    @property
    def shape(self) -> tuple[int, ...] | None:
        shapes = [term.shape for term in self.terms if term is not None and term.shape is not None]
        return max(shapes, key=len) if shapes else None

    @property
    def rank(self) -> int | None:
        """At most this, None where a term has full rank."""
        sizes = [term.low_rank_size for term in self.terms if term is not None]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def arrays(self) -> dict[str, Array]:
        return {
            f"{i}.{key}": x for i, term in enumerate(self.terms) if term is not None for key, x in term.arrays().items()
        }

    def product(self, base: Array | None = None) -> Any:
        vector = any(term is not None and is_vector(term) for term in self.terms)
        method, settings = self.how.of(self.name, vector)
        found = _operands(self.name, self.terms, base)
        if isinstance(found, int):
            raise AssertionError(f"{self.name} was finite when it was looked at")
        return product_of(method, found, self.how.weights(self.name, self.row), settings)

    def delta(self, base: Array | None = None) -> Array:
        product = self.product(base)
        dense = product[0] @ product[1] if isinstance(product, tuple) else product
        return dense if self.shape is None else dense.reshape(self.shape)


@dataclass(frozen=True, kw_only=True)
class ModuleCutter:
    """Modules to what an adapter holds of them, one in each output, the deltas read once for all.

    base     weights of the base model, for kinds that depend on them
    keep     where arrays go until they are written
    half     factors are to be as good in half precision
    spectra  norms and singular values are wanted too
    """

    how: MergePlan
    rule: RankRule | None
    base: Mapping[str, Stored]
    keep: Callable[[Array], Array]
    half: bool = False
    spectra: bool = False

    def __call__(self, name: str) -> list[Made] | str:
        """One module; or what in it is not finite."""
        terms = self.how.deltas(name)
        vector = any(term is not None and is_vector(term) for term in terms)
        found = _operands(name, terms, self.base.get(name))
        if isinstance(found, int):
            return f"{self.how.sources[found].file}: {name}"
        made = []
        for row in self.how.rows:
            method, settings = self.how.of(name, vector)
            rule = RankRule("full") if vector else self.rule
            try:
                one = merged(method, found, self.how.weights(name, row), settings, rule, self.spectra)
            except ValueError as error:
                raise InputError(f"{name}: --method {self.how.method}: {error}") from error
            made.append(self._kept(one))
        return made

    def _kept(self, made: Made) -> Made:
        if made.low is not None:
            low = balanced(made.low) if self.half else made.low
            return replace(made, low=low.mapped(self.keep))
        if made.found is not None:
            return replace(made, found=replace(made.found, u=self.keep(made.found.u), vh=self.keep(made.found.vh)))
        return made

    def at(self, made: Made, rank: int) -> Made:
        """Of a budget's triplets so many."""
        if made.found is None:
            return made
        triplets: Decomposed = replace(made.found, u=made.found.u.float(), vh=made.found.vh.float())
        return self._kept(replace(made, found=triplets).at(rank))


def _operands(name: str, terms: Sequence[Delta | None], base: Array | None) -> list[LowRank | None] | int:
    """The deltas as what methods take; or which of them is not finite."""
    frozen = (
        base.float()
        if isinstance(base, Stored) and any(term is not None and term.needs_base for term in terms)
        else None
    )
    found: list[LowRank | None] = []
    for i, term in enumerate(terms):
        read = in_memory(term) if term is not None else None
        if term is not None and read is None:
            return i
        try:
            found.append(operand(read, frozen) if read is not None else None)
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error
    return found
