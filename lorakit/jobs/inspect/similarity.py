"""Which adapters will fight: how alike they are, block by block, pair by pair."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from lorakit.adapter import Adapter
from lorakit.arrays import finite, on_host
from lorakit.delta import Delta
from lorakit.deltas.low_rank import LowRank, plain
from lorakit.errors import InputError, NumericError, UsageError, faults_together
from lorakit.families import as_linear
from lorakit.formats import files
from lorakit.formats.bases import check_same
from lorakit.formats.common_spelling import alike
from lorakit.io.endings import PAGE
from lorakit.io.files import check_targets, write_text
from lorakit.jobs.inspect import block_of, in_order
from lorakit.lowrank.overlap import Likeness, cosine, likeness, mean
from lorakit.runtime.workers import cores, each
from lorakit.talk import Note, silent


def run(paths: list[Path], *, report: Path | None, force: bool, dry_run: bool, note: Note) -> dict[str, Any]:
    """Every pair of the files; InputError where they are for different models, or two have no module in common."""
    if len(paths) < 2:
        raise UsageError("--similarity compares adapters: name two or more")
    check_targets([(report, PAGE)], force=force)
    given = list(zip(paths, faults_together(files.read, paths), strict=True))
    named = alike(given, check_same(given), None, silent).adapters
    adapters = faults_together(lambda one: _factors(*one, note), list(zip(paths, named, strict=True)))
    pairs = [
        _pair(*both, *names, note)
        for both, names in zip(combinations(adapters, 2), combinations(map(str, paths), 2), strict=True)
    ]
    outputs: list[str] = []
    if report is not None and not dry_run:
        from lorakit.reports.similarity import page

        write_text(report, page(pairs))
        outputs.append(str(report))
    return {"outputs": outputs, "similarity": pairs}


def _factors(path: Path, adapter: Adapter, note: Note) -> dict[str, LowRank]:
    """The modules that have factors, materialised once."""
    modules = {name: plain(delta) for name, delta in adapter.modules.items() if delta.exact}
    other: Mapping[str, Delta] = {name: delta for name, delta in adapter.modules.items() if not delta.exact}
    if other:
        kinds = ", ".join(sorted({delta.kind for delta in other.values()}))
        note(f"{path}: {len(other)} modules are not low rank ({kinds}) and are not compared, first {next(iter(other))}")
    if not modules:
        raise InputError(f"{path}: there are no low-rank deltas in it to compare")
    bad = [name for name, low in modules.items() if not (finite(low.down) and finite(low.up))]
    if bad:
        raise NumericError(f"{path}: NaN or infinity in {', '.join(bad[:5])}")
    return modules


def _pair(a: Mapping[str, LowRank], b: Mapping[str, LowRank], name_a: str, name_b: str, note: Note) -> dict[str, Any]:
    shared = [name for name in a if name in b]
    odd = [name for name in shared if as_linear(a[name].shape) != as_linear(b[name].shape)]
    if odd:
        raise InputError(
            f"{name_a} and {name_b} are for different base models: {len(odd)} modules differ in shape, first {odd[0]}"
        )
    if not shared:
        raise InputError(f"{name_a} and {name_b} have no module in common; are they of one base model family?")
    for name, mine, theirs in ((name_a, a, b), (name_b, b, a)):
        alone = [module for module in mine if module not in theirs]
        if alone:
            note(f"{len(alone)} modules are in {name} only, first {alone[0]}")
    found = dict(zip(shared, each(partial(_module, a, b), shared, cores()), strict=True))
    blocks: dict[str, list[Likeness]] = {}
    for name, one in found.items():
        blocks.setdefault(block_of(name), []).append(one)
    return {
        "a": name_a,
        "b": name_b,
        **_figures(list(found.values())),
        "blocks": [{"block": block, **_figures(blocks[block])} for block in in_order(blocks)],
        "by_module": {name: _figures([one]) for name, one in found.items()},
    }


def _module(a: Mapping[str, LowRank], b: Mapping[str, LowRank], name: str) -> Likeness:
    first, second = ((on_host(up), on_host(down)) for up, down in (a[name].factors(), b[name].factors()))
    return likeness(first, second)


def _figures(modules: list[Likeness]) -> dict[str, Any]:
    chance = [sum(one.by_chance[side] for one in modules) / len(modules) for side in (0, 1)]
    return {
        "modules": len(modules),
        "cosine": cosine(modules),
        "overlap_out": mean(modules, "outputs"),
        "overlap_in": mean(modules, "inputs"),
        "chance_out": chance[0],
        "chance_in": chance[1],
        "norms": [sum(one.norms[i] ** 2 for one in modules) ** 0.5 for i in (0, 1)],
    }
