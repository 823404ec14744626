"""Adapters to one adapter, or into a base model. Imports neither torch nor diffusers."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from lorakit.adapter import Adapter
from lorakit.arrays import SIZES, Array, Stored, type_named
from lorakit.composition.module_weights import ModuleWeights, number, read_blocks, read_parts
from lorakit.delta import Delta
from lorakit.deltas.norm import Norm
from lorakit.errors import UsageError
from lorakit.formats import weighted, writing
from lorakit.formats.first_layer import fitted
from lorakit.io.endings import ADAPTER, MERGED_MODEL, PAGE
from lorakit.io.files import check_targets, write_text
from lorakit.io.scratch import Scratch
from lorakit.jobs.merge import figures as merge_figures
from lorakit.jobs.merge import sources as merge_sources
from lorakit.jobs.merge.modules import MergePlan, ModuleCutter, checked_settings
from lorakit.jobs.merge.sources import MergeInput
from lorakit.lowrank.ranks import RankRule, allot
from lorakit.merging.kernel.module import Made
from lorakit.merging.kernel.operands import is_vector
from lorakit.models.base_weights import check_fits, weights_of
from lorakit.process_config import NOTHING, Overrides
from lorakit.runtime.signals import telling, written
from lorakit.runtime.workers import cores, each
from lorakit.talk import Note, Talk, Tick


@dataclass(frozen=True, kw_only=True)
class MergeChoices:
    """What a merge can be told besides the weights, the method and the rank.

    settings        of the method: density, spread, conflict; and the seed, for methods that draw
    parts, blocks   `--part-weights` and `--block-weights` as they are spelled
    sweep           values of alpha, one adapter for each
    rename          "FILE:<old>=<new>", for learned tokens
    base            a model, for kinds of delta that depend on its weights
    report          where a page about the modules goes
    verbose         all modules are noted with their figures, not only those that lost most
    """

    settings: Mapping[str, float] = field(default_factory=dict)
    parts: Sequence[str] = ()
    blocks: Sequence[str] = ()
    sweep: Sequence[float] = ()
    rename: Sequence[str] = ()
    allow_unmatched: bool = False
    base: str | None = None
    report: Path | None = None
    verbose: bool = False


@dataclass(frozen=True, kw_only=True)
class Into:
    """The base model to collapse a merge into. dtype None keeps each weight's own; of_model is what the user says of it.

    vae         another autoencoder in the place of the model's own
    cut_inputs  the first layer of an inpainting adapter is cut for a model that is none
    """

    model: str
    dtype: str | None = None
    stochastic_rounding: bool = False
    seed: int = 0
    tokenizer: Path | None = None
    of_model: Overrides = NOTHING
    cut_inputs: bool = False
    vae: str | None = None

    def write(
        self, adapter: Adapter, output: Path, allow_unmatched: bool, force: bool, dry_run: bool, talk: Talk
    ) -> dict[str, Any]:
        from lorakit.fusing import fuse

        done = fuse(
            adapter,
            self.model,
            output,
            dtype=self.dtype,
            stochastic_rounding=self.stochastic_rounding,
            seed=self.seed,
            allow_unmatched=allow_unmatched,
            force=force,
            dry_run=dry_run,
            tokenizer=self.tokenizer,
            wanted=self.of_model,
            vae=self.vae,
            talk=talk,
        )
        said = ("retained", "retained_worst", "retained_by_module", "norms", "left_out", "tokens", "unmatched")
        return {"into": self.model, "written": done["outputs"], **{key: done[key] for key in said if key in done}}


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A merge that nothing is wrong with.

    rest      each output without its modules
    vectors   modules that are norms: one number a channel
    families  that all of the adapters can be for, the likeliest first
    """

    outputs: Sequence[Path]
    how: MergePlan
    names: Sequence[str]
    vectors: Collection[str]
    rest: Sequence[Adapter]
    unmatched: Sequence[str]
    families: Sequence[str]
    file_format: str


def run(
    arguments: Sequence[str | weighted.Weighted],
    output: Path,
    *,
    alpha: float | None,
    weights: str | None,
    method: str,
    rank: RankRule | None,
    file_format: str | None,
    dtype: str,
    force: bool,
    dry_run: bool,
    talk: Talk,
    choices: MergeChoices | None = None,
    into: Into | None = None,
) -> dict[str, Any]:
    """The adapters' deltas joined by `method`, into `output`, or for a sweep into a numbered series of it.

    rank    None is exact where the method's result is low rank, else the sum of the adapters' ranks
    dtype   "float32", "float16" or "bfloat16", of an adapter
    file_format  None is kohya's, and for architectures without tables what the adapters are
    into    a base model to collapse the result into, instead of writing an adapter; without a rank nothing is cut
    """
    choices = choices or MergeChoices()
    outputs = _outputs(output, len(choices.sweep))
    kind = ADAPTER if into is None else MERGED_MODEL
    check_targets([*((path, kind) for path in outputs), (choices.report, PAGE)], force=force)
    given = weighted.read_arguments(arguments)
    plan = _planned(
        given,
        outputs,
        _rows(given, alpha, weights, choices.sweep),
        method=method,
        rank=rank,
        choices=choices,
        into=into,
        file_format=file_format,
        note=talk.note,
    )
    series: list[dict[str, Any]] = []
    with telling(lambda: written([one["output"] for one in series])):
        if into is not None and rank is None:
            made: Iterator[dict[str, Any]] = (
                _collapsed(plan, i, into, choices=choices, force=force, dry_run=dry_run, talk=talk)
                for i in range(len(outputs))
            )
        else:
            made = _cut(plan, rank, choices, into=into, dtype=dtype, force=force, dry_run=dry_run, talk=talk)
        series.extend(made)
    done = merge_figures.report(series, plan.unmatched, bool(choices.sweep))
    if dry_run:
        talk.note(f"{len(plan.names)} modules would be written to {', '.join(map(str, outputs))}")
        return {**done, "outputs": []}
    if choices.report is not None:
        done["outputs"].append(str(choices.report))
    return done


def _planned(
    given: Sequence[weighted.Weighted],
    outputs: Sequence[Path],
    rows: Sequence[Sequence[float]],
    *,
    method: str,
    rank: RankRule | None,
    choices: MergeChoices,
    into: Into | None,
    file_format: str | None,
    note: Note,
) -> _Plan:
    """Everything that can be wrong is told here, before any work."""
    factors = ModuleWeights.of(read_parts(choices.parts), read_blocks(choices.blocks), [one.file for one in given])
    settings = checked_settings(method, choices.settings, rows)
    unmatched: list[str] = []
    read = merge_sources.read(given, choices.rename, choices.allow_unmatched, unmatched, file_format, note)
    sources = read.all
    for option, model in (("--into", into and into.model), ("--base", choices.base)):
        if model:
            shapes = check_fits([(source.file, source.adapter) for source in sources], model, option)
            if into is not None:
                cut = partial(fitted, shapes=shapes, cut=into.cut_inputs, note=note)
                sources = [replace(source, adapter=cut(source.adapter, file=source.file)) for source in sources]
    based = into is not None or choices.base is not None
    merge_sources.check_kinds(sources, rank, based, into is not None and rank is None)
    unmatched += merge_sources.idle(factors, sources, choices.allow_unmatched)
    for line in (*(f"matches nothing: {line}" for line in unmatched), *merge_sources.weights_of_words(sources, rows)):
        note(line)
    names = sorted({name for source in sources for name in source.adapter.modules})
    merge_sources.check_rank(rank, sources, names)
    how = MergePlan(
        sources=sources,
        rows=rows,
        factors=factors,
        method=method,
        settings=settings,
        seed=choices.settings.get("seed", 0),
    )
    recipe = {"part_weights": list(choices.parts), "block_weights": list(choices.blocks), "base": choices.base}
    rest = [
        Adapter(
            modules={},
            metadata=merge_figures.metadata(how, row, choices.settings, rank, recipe),
            biases=merge_sources.biases(sources, row, factors),
            embeddings=merge_sources.tokens(sources, row),
        )
        for row in rows
    ]
    vectors = {name for source in sources for name, delta in source.adapter.modules.items() if is_vector(delta)}
    if method != "linear" and (vectors or rest[0].biases):
        note(f"norms and biases are summed by their weights, not by {method}")
    return _Plan(
        outputs=outputs,
        how=how,
        names=names,
        vectors=vectors,
        rest=rest,
        unmatched=unmatched,
        families=read.families,
        file_format=read.file_format,
    )


def _cut(
    plan: _Plan,
    rank: RankRule | None,
    choices: MergeChoices,
    *,
    into: Into | None,
    dtype: str,
    force: bool,
    dry_run: bool,
    talk: Talk,
) -> Iterator[dict[str, Any]]:
    """The outputs as adapters of a rank, written as such or into a model."""
    base = _base(choices, into, plan.how.sources, talk.note)
    keep = Scratch(plan.outputs[0]).keep
    cut = ModuleCutter(
        how=plan.how, rule=rank, base=base, keep=keep, half=dtype == "float16", spectra=choices.report is not None
    )
    table = _worked(cut, plan.names, talk.tick)
    for i, (path, row, rest) in enumerate(zip(plan.outputs, plan.how.rows, plan.rest, strict=True)):
        found = {name: made[i] for name, made in table.items()}
        if rank is not None and rank.kind == "budget":
            found = _spread(found, rank, rest, dtype, cut)
        adapter = replace(rest, modules=_deltas(found, plan.vectors))
        if plan.names and not adapter.modules:
            talk.note(f"{path}: the merged adapter is empty: its weights cancel or are all 0")
        figures = merge_figures.figures(path, row, found, plan.vectors)
        if into is None:
            writing.save(path, adapter, plan.file_format, dtype, plan.families or None, dry_run=dry_run)
        else:
            done = into.write(adapter, path, choices.allow_unmatched, force, dry_run, talk)
            figures |= {key: value for key, value in done.items() if key != "norms"}
        for line in merge_figures.table(figures, choices.verbose):
            talk.note(line)
        yield figures
    if choices.report is not None and not dry_run:
        shapes = _shapes(plan.how.sources, base)
        write_text(choices.report, merge_figures.page(found, shapes, f"{path.name}: what was merged"))


def _shapes(sources: Sequence[MergeInput], base: Mapping[str, Stored]) -> dict[str, tuple[int, ...]]:
    """Module to its weight's shape."""
    found = {name: tuple(x.shape) for name, x in base.items()}
    return found | {n: d.shape for s in sources for n, d in s.adapter.modules.items() if d.shape is not None}


def _collapsed(
    plan: _Plan, i: int, into: Into, *, choices: MergeChoices, force: bool, dry_run: bool, talk: Talk
) -> dict[str, Any]:
    """One output that goes into a model whole: each delta is made when its weight is written."""
    path, row = plan.outputs[i], plan.how.rows[i]
    joined = {name: plan.how.joined(name, row) for name in plan.names}
    done = into.write(replace(plan.rest[i], modules=joined), path, choices.allow_unmatched, force, dry_run, talk)
    norms = done.pop("norms")
    if choices.report is not None and not dry_run:
        page = merge_figures.page_of_model(joined, norms, done["retained_by_module"], f"{path.name}: what was merged")
        write_text(choices.report, page)
    return {
        "output": str(path),
        "weights": list(row),
        "layers": len(norms),
        "error": 0.0,
        "errors": {},
        "energy": {},
        "ranks": {name: delta.rank for name, delta in joined.items() if delta.rank is not None},
        **done,
    }


def _outputs(output: Path, count: int) -> list[Path]:
    return [output.with_name(f"{output.stem}-{i:03d}{output.suffix}") for i in range(count)] or [output]


def _rows(
    given: Sequence[weighted.Weighted], alpha: float | None, weights: str | None, sweep: Sequence[float]
) -> list[list[float]]:
    """The adapters' weights in each output."""
    if (alpha is not None or sweep) and len(given) != 2:
        raise UsageError(f"{'--sweep' if sweep else '--alpha'} is for exactly two adapters, got {len(given)}")
    if sweep:
        return [[value, 1 - value] for value in sweep]
    if alpha is not None:
        return [[number(str(alpha), "--alpha"), 1 - alpha]]
    row = [one.weight for one in given]
    if weights is not None:
        row = weighted.parse_weights(weights, len(given), "--weights")
    odd = [f"{one.file}: {weight}" for one, weight in zip(given, row, strict=True) if not math.isfinite(weight)]
    if odd:
        raise UsageError(f"weights must be finite numbers; {', '.join(odd)}")
    return [row]


def _base(choices: MergeChoices, into: Into | None, sources: Sequence[MergeInput], note: Note) -> Mapping[str, Stored]:
    """The base weights that deltas depend on."""
    needy = {name: d.kind for source in sources for name, d in source.adapter.modules.items() if d.needs_base}
    model = choices.base if into is None else into.model
    if model is not None and needy:
        return weights_of(model, needy, " and ".join(sorted(set(needy.values()))))
    if choices.base is not None:
        note(f"--base {choices.base} is not needed: nothing in the adapters depends on its weights")
    return {}


def _worked(cut: ModuleCutter, names: Sequence[str], tick: Tick) -> dict[str, list[Made]]:
    """Every module in every output, spread over the cores; all that is not finite is told at once."""
    table: dict[str, list[Made]] = {}
    bad: list[str] = []
    for name, made in zip(names, each(cut, names, cores()), strict=True):
        if isinstance(made, str):
            bad.append(made)
        else:
            table[name] = made
        tick(len(table) + len(bad), len(names))
    if bad:
        raise merge_sources.not_finite(", ".join(bad[:5]), len(bad[5:]))
    return table


def _deltas(found: Mapping[str, Made], vectors: Collection[str]) -> dict[str, Delta]:
    deltas: dict[str, Delta] = {}
    for name, made in found.items():
        if made.low is not None:
            deltas[name] = Norm(made.low.delta()[:, 0]) if name in vectors else made.low
    return deltas


def _spread(found: Mapping[str, Made], rule: RankRule, rest: Adapter, dtype: str, cut: ModuleCutter) -> dict[str, Made]:
    """The ranks that fit into a file of the budget's bytes, keys, tokens and metadata included."""
    size = SIZES[type_named(dtype)]
    header = 1500 + sum(len(f"{key}{value}".encode()) + 8 for key, value in rest.metadata.items())
    small: list[Array] = [x for by in rest.embeddings.values() for x in by.values()]
    small += [*rest.biases.values(), *(made.low.up for made in found.values() if made.low is not None)]
    small_bytes = sum(math.prod(x.shape) * size + 200 for x in small)
    a_module = 3 * (max((len(name) for name in found), default=0) + 120) + 4
    left = rule.value - header - small_bytes
    triplets = {name: made.found for name, made in found.items() if made.found is not None}
    ranks = allot(triplets, RankRule("budget", max(0.0, left), rule.cap), size, a_module)
    if triplets and not any(ranks.values()):
        raise UsageError(
            f"--budget {rule.value:g} bytes hold nothing of the adapter ({header + small_bytes} are for the rest)"
        )
    return {name: cut.at(made, ranks.get(name, 0)) for name, made in found.items()}
