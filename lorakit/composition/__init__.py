"""Several adapters kept apart while drawing: which of them acts how strongly, when, in which module, and where.

Pure data and functions of the step; standard library only. How it is written in a file: formats/recipes.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lorakit.composition import lbw
from lorakit.composition.curve import Curve
from lorakit.composition.module_weights import factor_of, within
from lorakit.patterns import Pattern
from lorakit.registry import COMPOSINGS


@dataclass(frozen=True, kw_only=True)
class Member:
    """One adapter of a composition.

    weight    of the adapter; times the curve where it has one
    curve     over the denoising
    blocks    beginning of a module's name to a factor; the longest that fits counts
    layers    (pattern searched in whole module names, factor); the first that matches counts, beside the blocks'
    parts     "unet", "text_encoder" ... to a factor
    region    picture of where it acts, white is in; blurred by `feather` pixels
    prompt    words that follow the prompt where the adapter acts
    free      it acts whatever the way of the composition is
    """

    path: Path
    weight: float = 1.0
    name: str = ""
    curve: Curve | None = None
    blocks: Mapping[str, float] = field(default_factory=dict)
    layers: tuple[tuple[Pattern, float], ...] = ()
    parts: Mapping[str, float] = field(default_factory=dict)
    region: Path | None = None
    feather: float = 0.0
    prompt: str = ""
    sha256: str | None = None
    free: bool = False

    def at(self, fraction: float) -> float:
        return self.weight * (1.0 if self.curve is None else self.curve.at(fraction))

    def factor(self, module: str) -> float:
        """What the module's delta is scaled by beside the weight: one number for the whole denoising."""
        found = factor_of(module, self.parts) * factor_of(module, self.blocks)
        return found * next((factor for pattern, factor in self.layers if pattern.search(module)), 1.0)

    def idle(self, modules: Sequence[str]) -> list[str]:
        """What was given a factor and is in none of the adapter's modules; lists of block weights, which name blocks that
        only other models have, are no such."""
        named = [f"part {part}" for part in self.parts if not any(within(m, part) for m in modules)]
        strict = (block for block in self.blocks if block not in lbw.named())
        named += [f"block {block}" for block in strict if not any(within(m, block) for m in modules)]
        named += [f"layers {p}" for p, _ in self.layers if not any(map(p.search, modules))]
        return named


@dataclass(frozen=True)
class Composition:
    """The members, and how those that are not free take turns or join: a name of `composing/` and its settings."""

    members: tuple[Member, ...] = ()
    way: str = "sum"
    settings: Mapping[str, float] = field(default_factory=dict)

    @property
    def constant(self) -> bool:
        """Whether the weights are the same at each step, and each adapter acts in the whole picture."""
        return self.way == "sum" and not any(m.curve or m.region is not None for m in self.members)

    def why_not_constant(self) -> list[str]:
        """What of it cannot be one adapter, a line each."""
        found = [f"it is a {self.way}"] if self.way != "sum" else []
        for member in self.members:
            found += [f"{member.name}'s weight changes over the denoising"] if member.curve is not None else []
            found += [f"{member.name} acts in a region"] if member.region is not None else []
        return found

    def scaled(self, factor: float) -> Composition:
        return replace(self, members=tuple(replace(m, weight=m.weight * factor) for m in self.members))


@dataclass(frozen=True)
class Pass:
    """One forward of a step: the adapters' weights, its share of the prediction, and whose region it is for.

    region    number of the member whose mask bounds it; None for the rest of the picture
    """

    weights: tuple[float, ...]
    share: float = 1.0
    region: int | None = None


def passes(composition: Composition, step: int, fraction: float) -> list[Pass]:
    """The forwards of a step, `step` counted from 0 and at this fraction of the denoising; shares sum to 1 where no
    region overlaps the others."""
    members = composition.members
    now = [member.at(fraction) for member in members]
    bound = [i for i, member in enumerate(members) if not member.free]
    found = []
    if bound:
        part = COMPOSINGS[composition.way]
        for share, weights in part.passes(step, [now[i] for i in bound], **composition.settings):
            chosen = list(now)
            for i, weight in zip(bound, weights, strict=True):
                chosen[i] = weight
            found.append((share, chosen))
    else:
        found.append((1.0, now))
    return [one for share, weights in found for one in _by_region(members, share, weights)]


def _by_region(members: Sequence[Member], share: float, weights: Sequence[float]) -> list[Pass]:
    """A pass of everything without a region, and one more for each region, with its adapter too."""
    regional = [i for i, member in enumerate(members) if member.region is not None]
    common = tuple(0.0 if i in regional else weight for i, weight in enumerate(weights))
    found = [Pass(common, share)]
    for i in regional:
        if weights[i]:
            found.append(Pass(tuple(weights[i] if j == i else w for j, w in enumerate(common)), share, i))
    return found


def effective(composition: Composition, steps: int) -> dict[str, list[float]]:
    """Each adapter's weight in each step, the mean over the step's forwards; in its region where it has one."""
    found: dict[str, list[float]] = {member.name: [] for member in composition.members}
    for step in range(steps):
        rows = passes(composition, step, step / max(1, steps - 1))
        for i, member in enumerate(composition.members):
            inside = [row for row in rows if row.region == (i if member.region is not None else None)]
            whole = sum(row.share for row in inside)
            found[member.name].append(sum(row.share * row.weights[i] for row in inside) / whole if whole else 0.0)
    return found


def uses(sequence: Sequence[tuple[float, ...]], room: int) -> dict[tuple[float, ...], float]:
    """How often each set of weights is used for each time it must be composed anew, where `room` sets are kept and the
    one not used for longest goes first."""
    kept: list[tuple[float, ...]] = []
    built: dict[tuple[float, ...], int] = {}
    used: dict[tuple[float, ...], int] = {}
    for weights in sequence:
        used[weights] = used.get(weights, 0) + 1
        if weights in kept:
            kept.remove(weights)
        else:
            built[weights] = built.get(weights, 0) + 1
        kept.append(weights)
        del kept[: max(0, len(kept) - max(1, room))]
    return {weights: used[weights] / built[weights] for weights in used}
