"""What a merge says of itself: figures by module, a page, and the metadata of its output."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lorakit.delta import Delta
from lorakit.formats import triggers
from lorakit.jobs.merge.metadata import merged as merged_metadata
from lorakit.jobs.merge.modules import MergePlan
from lorakit.lowrank.ranks import RankRule
from lorakit.merging.kernel.module import Made
from lorakit.reports import module_lines
from lorakit.reports.module_lines import Line
from lorakit.spellings import place_of


def figures(path: Path, row: Sequence[float], found: Mapping[str, Made], vectors: Collection[str]) -> dict[str, Any]:
    """Of one output: ranks, errors and the shares of the squared norm that are kept, by module; vectors have no rank."""
    kept = {name: made for name, made in found.items() if made.low is not None}
    # What a budget leaves out is lost whole; what cancels is not there to lose.
    there = {name: made for name, made in found.items() if name in kept or made.error}
    return {
        "output": str(path),
        "weights": list(row),
        "layers": len(kept),
        "ranks": {name: made.low.rank for name, made in kept.items() if made.low is not None and name not in vectors},
        "error": max((made.error for made in there.values()), default=0.0),
        "errors": {name: made.error for name, made in there.items()},
        "energy": {name: 1.0 - made.error**2 for name, made in there.items()},
    }


def table(one: Mapping[str, Any], everything: bool = False) -> list[str]:
    """The modules of one output that lost most, for people; nothing where nothing is lost."""
    ranks = one["ranks"]
    return module_lines.table(
        [Line(name, ranks.get(name, 0), kept) for name, kept in one["energy"].items()], everything
    )


def report(series: Sequence[Mapping[str, Any]], unmatched: Sequence[str], swept: bool) -> dict[str, Any]:
    """What `--json` says: the last output's figures, the worst error of all, and each output's where there are many."""
    first = {key: value for key, value in series[-1].items() if key not in ("output", "weights", "written")}
    return {
        "outputs": [path for one in series for path in one.get("written", [one["output"]])],
        **first,
        "error": max(one["error"] for one in series),
        "unmatched": [*unmatched, *first.get("unmatched", [])],
        **({"series": list(series)} if swept else {}),
    }


def page(found: Mapping[str, Made], shapes: Mapping[str, tuple[int, ...]], title: str) -> str:
    """The heat maps and singular values of one output, as HTML."""
    from lorakit.reports import spectra

    rows = [
        spectra.Spectrum(
            name=place_of(name),
            shape=shapes[name],
            rank=made.low.rank if made.low is not None else 0,
            norm=made.norm,
            kept=1.0 - made.error**2,
            excess=0.0,
            values=made.values,
        )
        for name, made in found.items()
        if name in shapes
    ]
    return spectra.page(rows, title)


def page_of_model(
    joined: Mapping[str, Delta], norms: Mapping[str, float], retained: Mapping[str, float], title: str
) -> str:
    """The same of deltas that went into a model: what of each is in the weights after rounding."""
    from lorakit.reports import spectra

    rows = []
    for name, norm in norms.items():
        shape = joined[name].shape if name in joined else None
        if shape is not None:
            rank = 1 if len(shape) == 1 else joined[name].rank or min(shape[:2])
            rows.append(
                spectra.Spectrum(
                    name=name, shape=shape, rank=rank, norm=norm, kept=retained.get(name, 1.0), excess=0.0, values=()
                )
            )
    return spectra.page(rows, title)


def metadata(
    how: MergePlan, row: Sequence[float], settings: Mapping[str, float], rule: RankRule | None, more: Mapping[str, Any]
) -> dict[str, str]:
    """Of one output: what the adapters agree on, and the recipe it can be made again with."""
    recipe: dict[str, Any] = {
        "method": how.method,
        "sources": [
            {"file": source.file.name, "sha256": source.sha256, "weight": weight}
            for source, weight in zip(how.sources, row, strict=True)
        ],
    }
    recipe |= {"settings": {**how.settings, **settings}} if settings else {}
    recipe |= {"rank": {"kind": rule.kind, "value": rule.value, "cap": rule.cap}} if rule is not None else {}
    recipe |= {key: value for key, value in more.items() if value}
    names = [source.file.name for source in how.sources]
    acting = [source.adapter for source, weight in zip(how.sources, row, strict=True) if weight]
    words = [word for adapter in acting for word in triggers.of_adapter(adapter).words]
    return merged_metadata([source.adapter.metadata for source in how.sources], words, names, recipe)
