"""Adapter arguments, files and recipes, as the jobs share them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lorakit.adapter import Adapter
from lorakit.composition import Member
from lorakit.deltas.low_rank import plain
from lorakit.errors import InputError, UsageError, faults_together
from lorakit.formats import recipes
from lorakit.io.inputs import sha256_of
from lorakit.io.paths import check_adapters, is_recipe, split

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Weighted:
    """An adapter file at a weight; of a recipe, with factors by part, block and layer."""

    file: Path
    weight: float
    member: Member | None = None

    def sha256(self) -> str:
        return sha256_of(self.file)

    def scaled(self, adapter: Adapter) -> Adapter:
        """The adapter with the recipe's factors in its deltas; a module at 0 is left out."""
        if self.member is None:
            return adapter
        modules = {}
        for name, delta in adapter.modules.items():
            factor = self.member.factor(name)
            if factor not in (0, 1):
                if not delta.exact:
                    raise InputError(
                        f"{self.file}: {name} is a {delta.kind} delta, which a recipe cannot weigh by itself"
                    )
                low = plain(delta)
                delta = replace(low, alpha=low.alpha * factor)
            if factor:
                modules[name] = delta
        return replace(adapter, modules=modules)


def read_arguments(arguments: Sequence[str | Weighted]) -> list[Weighted]:
    """Adapter files and recipes, flattened; a recipe's weights are multiplied by its own. All missing ones are named.

    InputError for a recipe that is no one adapter at each moment: it changes with the step or the place.
    """
    out: list[Weighted] = []
    check_adapters(one for one in arguments if isinstance(one, str))
    for weighted in faults_together(_read_argument, arguments):
        out += weighted
    return out


def _read_argument(one: str | Weighted) -> list[Weighted]:
    if isinstance(one, Weighted):
        return [one]
    path, weight = split(one)
    if not is_recipe(path):
        return [Weighted(Path(path), weight)]
    composition = recipes.read(Path(path))
    if not composition.constant:
        raise InputError(f"{path} cannot be one adapter: {'; '.join(composition.why_not_constant())}")
    return [Weighted(m.path, m.weight * weight, m) for m in composition.members]


def parse_weights(text: str, count: int, option: str) -> list[float]:
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{option} {text}: expected numbers such as 1,0.5,-0.3") from error
    if len(weights) != count:
        raise UsageError(f"{option} {text}: {len(weights)} weights for {count} adapters")
    return weights
