"""The adapter that a file, a folder or a run holds: all of it, parts of it, or re-ranked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lorakit.adapter import Adapter
from lorakit.arrays import finite, on_host
from lorakit.composition.module_weights import PARTS, within
from lorakit.delta import Delta
from lorakit.deltas.low_rank import plain
from lorakit.errors import InputError, UsageError
from lorakit.formats import files, triggers
from lorakit.formats.bases import families_of
from lorakit.formats.checkpoints import describe
from lorakit.jobs.extract.choices import TOKENS, ExtractionChoices, metadata
from lorakit.jobs.extract.differences import chosen
from lorakit.lowrank.decomposed import of_factors
from lorakit.lowrank.ranks import allot
from lorakit.lowrank.taken import TakenModule, of_triplets, spread, undecided, whole
from lorakit.runtime.workers import cores, each
from lorakit.spellings import part_of
from lorakit.talk import Tick

_RUN_KEYS = ("lorakit.checkpoint", "lorakit.step")


def of_adapter(
    tuned: str, choices: ExtractionChoices, size: int, tick: Tick
) -> tuple[Adapter, list[TakenModule], Sequence[str], dict[str, Any]]:
    """(the adapter, what was taken of each module, the families it can be for, more figures); a number takes `size` bytes."""
    adapter = _read(Path(tuned))
    families = families_of(adapter)
    adapter = _part_of(adapter, tuned, choices)
    rule = choices.rule
    found: list[TakenModule] = []
    if rule is None and choices.conv_rank is None:
        found = [whole(name, delta) for name, delta in adapter.modules.items()]
    else:
        odd = sorted({delta.kind for delta in adapter.modules.values() if not delta.exact})
        if odd:
            raise InputError(
                f"{tuned}: its {', '.join(odd)} deltas are not low rank; make them plain first: "
                f"lorakit convert {tuned} OUT --approximate RANK --base MODEL"
            )
        most = max((min(delta.low_rank_size or 0, *_sides(delta)) for delta in adapter.modules.values()), default=0)
        if rule is not None and rule.kind == "fixed" and rule.value > most:
            raise UsageError(
                f"--rank {rule.value:g}: the adapter's own is {most} at most; without --rank it stays as it is"
            )
        work = partial(_reranked, modules=adapter.modules, choices=choices)
        for done, one in enumerate(each(work, list(adapter.modules), cores()), 1):
            found.append(one)
            tick(done, len(adapter.modules))
        if rule is not None and rule.kind == "budget":
            try:
                found = spread(found, rule, size)
            except ValueError as error:
                raise UsageError(f"--budget: {error}") from error
        adapter = replace(adapter, modules={one.name: one.delta for one in found if one.delta is not None})
    kept = {key: value for key, value in adapter.metadata.items() if key not in _RUN_KEYS}
    recipe = metadata(tuned, None, choices, rule, None)
    adapter = replace(adapter, metadata={**kept, **recipe})
    return adapter, found, families, {"tokens": sorted(adapter.embeddings)}


def _read(path: Path) -> Adapter:
    if path.is_dir() and (path / "model_index.json").is_file():
        raise InputError(f"{path} is a base model and no adapter; say with --base what to compare it with")
    if path.is_dir():
        steps = sorted(path.rglob("step-*.safetensors"))
        path = steps[-1] if steps else path
    tensors, notes = files.contents(path)
    if describe(tensors, notes) is not None:
        raise InputError(f"{path} is a base model and no adapter; say with --base what to compare it with")
    adapter = files.read(path)
    if not adapter.modules and not adapter.embeddings and not adapter.biases:
        raise InputError(f"{path}: there is no adapter in it")
    return adapter


def _part_of(adapter: Adapter, tuned: str, choices: ExtractionChoices) -> Adapter:
    """The parts and modules that are asked for."""
    parts, has = choices.parts, _parts(adapter)
    held = (*adapter.modules, *adapter.biases)
    missing = [part for part in parts if part not in has and not any(within(name, part) for name in held)]
    if missing:
        raise InputError(f"{tuned} has no {', '.join(missing)}; it has {', '.join(has)}")
    names = set(chosen(choices.target, {*adapter.modules, *adapter.biases}))
    if choices.target != "all" and not names:
        raise InputError(f"--target {choices.target}: no module of {tuned} matches")

    def asked(name: str) -> bool:
        return name in names and (not parts or any(within(name, part) for part in parts))

    keeps_tokens = not parts or TOKENS in parts
    return replace(
        adapter,
        metadata=triggers.without(adapter.metadata, () if keeps_tokens else adapter.embeddings.keys()),
        modules={name: delta for name, delta in adapter.modules.items() if asked(name)},
        biases={name: bias for name, bias in adapter.biases.items() if asked(name)},
        embeddings=adapter.embeddings if keeps_tokens else {},
        unknown={},
    )


def _parts(adapter: Adapter) -> list[str]:
    heads = {part_of(name) for name in (*adapter.modules, *adapter.biases)}
    return [*(part for part in PARTS if part in heads), *([TOKENS] if adapter.embeddings else [])]


def _sides(delta: Delta) -> tuple[int, int]:
    shape = delta.shape or (0,)
    return shape[0], math.prod(shape[1:])


def _reranked(name: str, *, modules: Mapping[str, Delta], choices: ExtractionChoices) -> TakenModule:
    low = plain(modules[name])
    if not all(finite(x) for x in (low.down, low.up)):
        raise InputError(f"NaN or infinity in {name}")
    up, down = (on_host(x) for x in low.factors())  # a pickle holds torch tensors
    found = of_factors(up, down, low.shape)
    rule = choices.rule_of(low.shape)
    if rule.kind == "budget":
        return undecided(name, found, rule.cap)
    return of_triplets(name, found, allot({name: found}, rule)[name])
