"""What one model has beyond another, module by module, as an adapter."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.delta import Delta
from lorakit.deltas.norm import Norm
from lorakit.errors import InputError, UsageError, some
from lorakit.jobs.extract.choices import TOKENS, ExtractionChoices, metadata
from lorakit.jobs.extract.differences import Differences, Pair, compare
from lorakit.lowrank import noise
from lorakit.lowrank.decomposed import Decomposed
from lorakit.lowrank.difference import difference
from lorakit.lowrank.ranks import RankRule
from lorakit.lowrank.solve import solve
from lorakit.lowrank.taken import TakenModule, spread
from lorakit.runtime.room import Room
from lorakit.runtime.workers import cores, each
from lorakit.talk import Note, Talk, Tick
from lorakit.targets import is_known

_DEFAULT = RankRule("fixed", 32)
_ROOM = 512 << 20  # bytes that modules in work may take together
_TIMES = 4  # times the ranks that a budget allows on average: as many as one module may take of it


def between(
    tuned: str, base: str, choices: ExtractionChoices, size: int, device: str, talk: Talk
) -> tuple[Adapter, list[TakenModule], Sequence[str], dict[str, Any]]:
    """(the adapter, what was taken of each module, the families it can be for, more figures); a number takes `size` bytes.

    device  "cpu", or the name of a GPU, which then subtracts and multiplies
    """
    if TOKENS in choices.parts:
        raise UsageError("--parts tokens is for adapters: two models have no learned tokens to compare")
    pairs = compare(tuned, base, choices.target, choices.parts)
    for line in pairs.lone:
        talk.note(f"not compared: {line}")
    choices = _checked(choices, pairs, size)
    rule = choices.rule or _DEFAULT
    found, same, bad = _weights(pairs.weights, choices, rule, device, talk.tick)
    others, same_others = _others(pairs.others, bad)
    if bad:
        raise InputError(f"NaN or infinity in {some(bad, 5)}; one of {tuned} and {base} is damaged")
    skipped = _kinds(others)
    _say(skipped, choices.keep_bias, talk.note)
    modules, biases = _kept(others) if choices.keep_bias else ({}, {})
    if not found and not modules and not biases:
        what = ", ".join(f"{len(names)} {kind}" for kind, names in skipped.items() if names)
        differ = f"differ only in {what} (--keep-bias keeps biases and norms)" if what else "have the same weights"
        raise InputError(f"{tuned} and {base} {differ}: there is nothing to extract")
    if rule.kind == "budget":
        try:
            found = spread(found, rule, size)
        except ValueError as error:
            raise UsageError(f"--budget: {error}") from error
    if choices.keep_bias:
        skipped |= {"biases": [], "norms": []}
    skipped["no_room" if rule.kind == "budget" else "noise"] = [one.name for one in found if one.delta is None]
    modules |= {one.name: one.delta for one in found if one.delta is not None}
    if not modules and not biases:
        raise InputError(f"{tuned} and {base} differ by rounding noise alone: there is nothing to extract")
    _tell(found, choices, rule, talk.note)
    notes = pairs.words | metadata(tuned, base, choices, rule, pairs.family)
    adapter = Adapter(modules=modules, metadata=notes, biases=biases)
    extra = {
        "identical": same + same_others,
        "skipped": skipped,
        "kept_biases": len(biases),
        "not_compared": pairs.lone,
    }
    return adapter, found, [pairs.family] if pairs.family else [], extra


def _checked(choices: ExtractionChoices, pairs: Differences, size: int) -> ExtractionChoices:
    """A rank that no module can have is a slip of the hand. A budget gets its cap."""
    sides = [min(pair.shape[0], math.prod(pair.shape[1:])) for pair in pairs.weights]
    rule = choices.rule
    if rule is not None and rule.kind == "fixed" and rule.value > max(sides):
        raise UsageError(f"--rank {rule.value:g}: no module has more than {max(sides)}; --rank full keeps all")
    if rule is not None and rule.kind == "budget":
        average = rule.value / (size * sum(pair.shape[0] + math.prod(pair.shape[1:]) for pair in pairs.weights))
        cap = max(8, math.ceil(_TIMES * average))
        return replace(choices, rule=replace(rule, cap=min(cap, rule.cap or cap)))
    return choices


# Weights


@dataclass(kw_only=True)
class _Comparer:
    """Compares weights; each of its threads has one place to put a difference, which modules use in turn."""

    choices: ExtractionChoices
    rule: RankRule
    device: str
    room: Room = field(default_factory=lambda: Room(_ROOM))
    places: threading.local = field(default_factory=threading.local)

    def __call__(self, pair: Pair) -> TakenModule | str | None:
        """One module compared; None where both are the same, its name where it is not finite."""
        with self.room.take(pair.room):
            try:
                delta, squared = self._difference(pair)
            except ValueError:
                return pair.name
            if delta is None:
                return None
            way = self.choices.way_of(pair.shape, self.rule)
            floor = partial(_floor, pair) if way.rule.kind == "auto" else None
            return solve(pair.name, delta, way, floor, squared)

    def _difference(self, pair: Pair) -> tuple[Array | None, float | None]:
        count = math.prod(pair.shape)
        if self.device != "cpu":
            from lorakit.lowrank import on_device

            delta = on_device.difference(pair.tuned, pair.base, on_device.device(self.device))
            return (None if delta is None else delta.reshape(pair.shape)), None
        place = getattr(self.places, "place", None)
        if place is None or len(place) < count:
            place = self.places.place = np.empty(count, np.float32)
        squared = difference(pair.tuned, pair.base, place[:count])
        return (None if squared is None else place[:count].reshape(pair.shape)), squared


def _weights(
    pairs: Sequence[Pair], choices: ExtractionChoices, rule: RankRule, device: str, tick: Tick
) -> tuple[list[TakenModule], int, list[str]]:
    """(what was taken of weights that differ, how many do not, names of those that are not finite)."""
    found: list[TakenModule] = []
    same, bad = 0, list[str]()
    for done, one in enumerate(each(_Comparer(choices=choices, rule=rule, device=device), pairs, cores()), 1):
        if one is None:
            same += 1
        elif isinstance(one, str):
            bad.append(one)
        else:
            found.append(one)
        tick(done, len(pairs))
    return found, same, bad


def _floor(pair: Pair, side: int, found: Decomposed | None) -> float:
    """The noise of an unfolding: by outputs (0) or by inputs (1)."""
    values = (x.float().reshape(pair.shape) for x in (pair.tuned, pair.base))
    a, b = (np.swapaxes(x, 0, side).reshape(x.shape[side], -1).astype(np.float32, copy=False) for x in values)
    more = (found.s, found.total) if found is not None else ()
    return noise.floor(a, pair.tuned.dtype, b, pair.base.dtype, *more)


def _tell(found: Sequence[TakenModule], choices: ExtractionChoices, rule: RankRule, note: Note) -> None:
    left = sum(one.delta is None for one in found)
    if left:
        note(f"{left} modules were left out: {'nothing but rounding noise' if rule.kind == 'auto' else 'no room'}")
    if choices.clamp_quantile is not None:
        lost = max((one.clamped for one in found), default=0.0)
        note(f"--clamp-quantile {choices.clamp_quantile:g} adds an error of up to {lost:.1%} of a module's norm")


# Biases, norms and embeddings


def _others(pairs: Sequence[Pair], bad: list[str]) -> tuple[dict[str, np.ndarray], int]:
    """(parameter to difference of those that differ, how many do not); names of those that are not finite go to `bad`.

    Embeddings are named, not kept: theirs is an empty matrix.
    """
    found, same = {}, 0
    for pair in pairs:
        delta = np.empty(math.prod(pair.shape), np.float32)
        try:
            if difference(pair.tuned, pair.base, delta) is None:
                same += 1
            else:
                found[pair.name] = delta if len(pair.shape) == 1 else np.empty((0, 0), np.float32)
        except ValueError:
            bad.append(pair.name)
    return found, same


def _kinds(others: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {"biases": [], "norms": [], "embeddings": []}
    for name, delta in others.items():
        kind = "embeddings" if delta.ndim != 1 else "norms" if "norm" in name else "biases"
        kinds[kind].append(name)
    return kinds


def _say(skipped: Mapping[str, Sequence[str]], keep_bias: bool, note: Note) -> None:
    for kind, names in skipped.items():
        if names and not (keep_bias and kind != "embeddings"):
            hint = "" if kind == "embeddings" else "; --keep-bias keeps them"
            note(f"{len(names)} {kind} changed and are left out, first {names[0]}{hint}")


def _kept(others: Mapping[str, np.ndarray]) -> tuple[dict[str, Delta], dict[str, np.ndarray]]:
    """(norms' deltas, biases), by module."""
    modules: dict[str, Delta] = {}
    biases = {}
    for name, delta in others.items():
        module, _, kind = name.rpartition(".")
        if delta.ndim != 1 or not is_known(module):
            continue
        if kind == "bias":
            biases[module] = delta
        else:
            modules[module] = Norm(delta)
    return modules, biases
