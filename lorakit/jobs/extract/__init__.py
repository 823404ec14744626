"""What fine-tuning changed, as an adapter: two models compared, or the adapter that a file or a run holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorakit.adapter import Adapter
from lorakit.arrays import SIZES, type_named
from lorakit.deltas.low_rank import LowRank
from lorakit.formats import writing
from lorakit.formats.common_spelling import alike
from lorakit.formats.scaling import balanced
from lorakit.io.endings import ADAPTER, PAGE
from lorakit.io.files import check_targets, write_text
from lorakit.jobs.extract.adapter import of_adapter
from lorakit.jobs.extract.choices import ExtractionChoices
from lorakit.jobs.extract.models import between
from lorakit.lowrank.taken import TakenModule
from lorakit.reports.module_lines import Line, table
from lorakit.runtime.signals import telling
from lorakit.runtime.signals import written as told
from lorakit.spellings import place_of
from lorakit.talk import Talk


def run(
    tuned: str,
    output: Path,
    *,
    base: str | None,
    choices: ExtractionChoices,
    file_format: str | None,
    dtype: Any = "float32",
    device: str = "cpu",
    report: Path | None = None,
    force: bool,
    dry_run: bool,
    talk: Talk,
    verbose: bool = False,
) -> dict[str, Any]:
    """The nearest adapter of the ranks asked for; without a base, TUNED's own adapter, re-ranked if asked.

    verbose  all modules are noted with their figures, not only those that lost most
    """
    check_targets([(output, ADAPTER), (report, PAGE)], force=force)
    size = SIZES[type_named(str(dtype))]
    if base is None:
        adapter, found, families, extra = of_adapter(tuned, choices, size, talk.tick)
        named = alike([(Path(tuned), adapter)], families, file_format, talk.note)
        (adapter,), file_format = named.adapters, named.file_format
    else:
        adapter, found, families, extra = between(tuned, base, choices, size, device, talk)
    if type_named(str(dtype)) == "F16":
        modules = {n: balanced(x) if isinstance(x, LowRank) else x for n, x in adapter.modules.items()}
        adapter = replace(adapter, modules=modules)
    writing.save(output, adapter, file_format or "kohya", dtype, families or None, dry_run=dry_run)
    if report is not None and not dry_run:
        with telling(lambda: told([output])):
            _draw(report, found, f"{Path(tuned).name}: what was extracted")
    taken = [Line(one.name, one.rank, one.kept, one.excess) for one in found if one.delta is not None]
    for line in table(taken, verbose):
        talk.note(line)
    if dry_run:
        talk.note(f"{len(adapter.modules)} modules would be written to {output}")
    written = [] if dry_run else [str(path) for path in (output, report) if path is not None]
    return {"outputs": written, "family": next(iter(families), None), **_figures(adapter, found), **extra}


def _draw(report: Path, found: Sequence[TakenModule], title: str) -> None:
    from lorakit.reports.spectra import Spectrum, page

    modules = [
        Spectrum(
            name=place_of(one.name),
            shape=one.shape,
            rank=one.rank,
            norm=one.norm,
            kept=one.kept,
            excess=one.excess,
            values=one.values,
            floor=one.floor,
        )
        for one in found
    ]
    write_text(report, page(modules, title))


def _figures(adapter: Adapter, found: Sequence[TakenModule]) -> dict[str, Any]:
    taken = [one for one in found if one.delta is not None]
    kept = {one.name: one.kept for one in taken}
    shares = list(kept.values()) or [1.0]
    whole = sum(one.norm**2 for one in found)
    held = sum(one.kept * one.norm**2 for one in taken)
    return {
        "layers": len(taken),
        "ranks": {one.name: one.rank for one in taken},
        "energy_kept": {
            "smallest": min(shares),
            "mean": sum(shares) / len(shares),
            "whole": held / whole if whole else 1.0,
            "by_layer": kept,
        },
        "errors": {one.name: max(0.0, 1 - one.kept) ** 0.5 for one in taken},
        "certificate": {
            "largest": max((one.excess for one in taken), default=0.0),
            "by_layer": {one.name: one.excess for one in taken},
            "share_of_optimum": min((one.of_optimum for one in taken), default=1.0),
        },
    }
