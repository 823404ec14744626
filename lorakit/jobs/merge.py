"""Adapters to one adapter. Imports torch and safetensors, never diffusers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lorakit.adapter import Adapter
from lorakit.arrays import Array, finite, floats
from lorakit.composition.module_weights import ModuleWeights, number, read_blocks, read_parts, which
from lorakit.deltas.low_rank import LowRank, plain
from lorakit.diffusion.noise import generator
from lorakit.errors import InputError, UsageError
from lorakit.formats import files
from lorakit.formats.adapters import checked
from lorakit.formats.adapters._modules import balanced, family_of
from lorakit.io.files import check_target
from lorakit.jobs import adapters
from lorakit.jobs.fuse import fuse, is_folder
from lorakit.jobs.merged_metadata import merged as merged_metadata
from lorakit.lowrank.ranks import Rule, allot
from lorakit.merging._module import Made, merged
from lorakit.registry import MERGE_METHODS, nearest
from lorakit.runtime.workers import cores, each

Note = Callable[[str], None]


@dataclass(frozen=True)
class Choices:
    """What a merge can be told besides the weights, the method and the rank.

    settings        of the method: density, spread, conflict; and the seed, for methods that draw
    parts, blocks   `--part-weights` and `--block-weights` as they are spelled
    sweep           values of alpha, one adapter for each
    rename          "FILE:<old>=<new>", for learned tokens
    """

    settings: Mapping[str, float] = field(default_factory=dict)
    parts: Sequence[str] = ()
    blocks: Sequence[str] = ()
    sweep: Sequence[float] = ()
    rename: Sequence[str] = ()
    allow_unmatched: bool = False


@dataclass(frozen=True)
class Into:
    """The base model to collapse a merge into. dtype None keeps each weight's own."""

    model: str
    dtype: str | None = None
    stochastic_rounding: bool = False
    seed: int = 0
    tokenizer: Path | None = None

    def write(self, adapter: Adapter, output: Path, allow_unmatched: bool, force: bool, note: Note) -> dict[str, Any]:
        done = fuse(
            adapter, self.model, output, dtype=self.dtype, stochastic_rounding=self.stochastic_rounding, seed=self.seed,
            allow_unmatched=allow_unmatched, force=force, tokenizer=self.tokenizer, note=note,
        )  # fmt: skip
        return {
            "into": self.model,
            **{key: done[key] for key in ("retained", "retained_worst", "left_out", "tokens") if key in done},
        }


@dataclass(frozen=True)
class _Source:
    file: Path
    sha256: str
    adapter: Adapter


def run(
    arguments: Sequence[str | adapters.Weighted], output: Path, *, alpha: float | None, weights: str | None, method: str,
    rank: Rule | None, file_format: str, dtype: torch.dtype, force: bool, dry_run: bool,
    tick: Callable[[int, int], None], note: Note, choices: Choices | None = None, into: Into | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The adapters' deltas joined by `method`, into `output`, or for a sweep into a numbered series of it.

    rank    None is exact where the method's result is low rank, else the sum of the adapters' ranks
    into    a base model to collapse the result into, instead of writing an adapter
    """
    choices = choices or Choices()
    outputs = _outputs(output, len(choices.sweep))
    for path in outputs:
        check_target(path, force=force, folder=into is not None and is_folder(path))
    given = adapters.read_arguments(arguments)
    rows = _rows(given, alpha, weights, choices.sweep)
    paths = [one.file for one in given]
    factors = ModuleWeights.of(read_parts(choices.parts), read_blocks(choices.blocks), paths)
    settings = _settings(method, choices.settings, rows)
    unmatched: list[str] = []
    sources = [
        _Source(one.file, one.sha256(), one.scaled(_read(one.file, choices.allow_unmatched, unmatched)))
        for one in given
    ]
    sources = _renamed(sources, choices.rename)
    _one_family(sources)
    unmatched += _idle(factors, sources, choices.allow_unmatched)
    for line in unmatched:
        note(f"matches nothing: {line}")
    names = sorted({name for source in sources for name in source.adapter.modules})
    _check_rank(rank, sources, names)
    tokens = [_tokens(sources, row) for row in rows]
    if dry_run:
        note(f"{len(names)} modules would be written to {', '.join(map(str, outputs))}")
        return {"outputs": [], "layers": len(names), "ranks": {}, "error": 0.0, "unmatched": unmatched}
    join = partial(
        _join, sources=sources, rows=rows, factors=factors, method=method, settings=settings, rule=rank,
        keys=_keys(sources, choices.settings.get("seed", 0)),
    )  # fmt: skip
    table: list[list[Made]] = []
    for made in each(join, names, cores()):
        table.append(made)
        tick(len(table), len(names))
    series = []
    for i, (path, row) in enumerate(zip(outputs, rows, strict=True)):
        found = {name: made[i] for name, made in zip(names, table, strict=True)}
        metadata = _metadata(sources, row, method, settings, rank, choices)
        result = Adapter({}, metadata, embeddings=tokens[i])
        if rank is not None and rank.kind == "budget":
            found = _spread(found, rank, result, dtype)
        modules: dict[str, LowRank] = {name: made.low for name, made in found.items() if made.low is not None}
        if dtype == torch.float16:
            modules = {name: balanced(low) for name, low in modules.items()}
        if names and not modules:
            note(f"{path}: the merged adapter is empty: its weights cancel or are all 0")
        result = Adapter(modules, metadata, embeddings=tokens[i])
        figures = _figures(path, row, found)
        if into is None:
            adapters.save(path, result, file_format, dtype)
        else:
            figures |= into.write(result, path, choices.allow_unmatched, force, note)
        series.append(figures)
    return _report(series, unmatched, note, bool(choices.sweep))


def _outputs(output: Path, count: int) -> list[Path]:
    return [output.with_name(f"{output.stem}-{i:03d}{output.suffix}") for i in range(count)] or [output]


def _rows(
    given: Sequence[adapters.Weighted], alpha: float | None, weights: str | None, sweep: Sequence[float]
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
        row = adapters.parse_weights(weights, len(given), "--weights")
    odd = [f"{one.file}: {weight}" for one, weight in zip(given, row, strict=True) if not math.isfinite(weight)]
    if odd:
        raise UsageError(f"weights must be finite numbers; {', '.join(odd)}")
    return [row]


def _settings(method: str, given: Mapping[str, float], rows: Sequence[Sequence[float]]) -> dict[str, Any]:
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
    one = LowRank(torch.ones(1, 1), torch.ones(1, 1), 1.0)
    for row in rows:
        trial = {"generators": [torch.Generator() for _ in row]} if draws else {}
        try:
            part.merge([one] * len(row), row, **settings, **trial)
        except ValueError as error:
            raise UsageError(f"--method {method}: {error}") from error
    return settings


def _read(file: Path, allow_unmatched: bool, unmatched: list[str]) -> Adapter:
    """The adapter, its arrays read when used; what cannot be merged is an InputError that names it."""
    adapter = files.look(file)
    if allow_unmatched:
        unmatched += [f"{file}: {line}" for line in adapter.faults]
        unmatched += [f"{file}: {key}: belongs to nothing" for key in adapter.unknown]
    else:
        checked(adapter, str(file))
    odd = {delta.kind for delta in adapter.modules.values() if not delta.exact} | (
        {"bias"} if adapter.biases else set()
    )
    if odd:
        raise InputError(
            f"{file}: its {', '.join(sorted(odd))} deltas are not low rank, and merge does not join them yet; make them "
            f"plain first: lorakit convert {file} OUT --approximate RANK --base MODEL"
        )
    if not adapter.modules and not adapter.embeddings:
        raise InputError(f"{file}: there is no adapter in it")
    bad = [name for name, delta in adapter.modules.items() if not all(map(finite, delta.arrays().values()))]
    bad += [f"token {token}" for token, by in adapter.embeddings.items() if not all(map(finite, by.values()))]
    if bad:
        raise InputError(
            f"{file}: NaN or infinity in {', '.join(bad[:5])}{f' and {len(bad) - 5} more' * (len(bad) > 5)}"
        )
    return adapter


def _one_family(sources: Sequence[_Source]) -> None:
    families = [(source, family_of(source.adapter).family) for source in sources]
    known = [(source, family) for source, family in families if family is not None]
    for source, family in known[1:]:
        if family != known[0][1]:
            raise InputError(
                f"the adapters are for different base models: {known[0][0].file} is for {known[0][1]}, {source.file} "
                f"for {family}"
            )


def _renamed(sources: Sequence[_Source], texts: Iterable[str]) -> list[_Source]:
    """Learned tokens under the names that `--rename-token` gives them."""
    found = list(sources)
    for text in texts:
        who, _, pair = text.rpartition(":")
        old, equals, new = pair.partition("=")
        if not (who and old and equals and new):
            raise UsageError(f"--rename-token {text}: expected FILE:<old>=<new>")
        at = which(who, [source.file for source in sources], f"--rename-token {text}")
        tokens = dict(found[at].adapter.embeddings)
        if old not in tokens:
            has = f"it has {', '.join(tokens)}" if tokens else "it has none"
            raise UsageError(
                f"--rename-token {text}: {found[at].file} has no token '{old}'{nearest(old, tokens)}; {has}"
            )
        if new in tokens:
            raise UsageError(f"--rename-token {text}: {found[at].file} has a token '{new}' already")
        tokens = {new if token == old else token: by for token, by in tokens.items()}
        adapter = found[at].adapter
        found[at] = _Source(
            found[at].file, found[at].sha256, Adapter(adapter.modules, adapter.metadata, embeddings=tokens)
        )
    return found


def _tokens(sources: Sequence[_Source], row: Sequence[float]) -> dict[str, dict[str, Array]]:
    """The learned tokens of all adapters that count; two of one name must be the same."""
    found: dict[str, dict[str, Array]] = {}
    owners: dict[str, Path] = {}
    for source, weight in zip(sources, row, strict=True):
        if weight == 0:
            continue
        for token, by_part in source.adapter.embeddings.items():
            mine = {part: _vectors(x) for part, x in by_part.items()}
            if token in found and not _same(found[token], mine):
                raise InputError(
                    f"{owners[token]} and {source.file} both have a learned token {token}, with different vectors; "
                    f"rename one: --rename-token '{source.file.name}:{token}=NEW'"
                )
            found[token], owners[token] = mine, source.file
    return found


def _vectors(x: Array) -> torch.Tensor:
    values = torch.as_tensor(floats(x)).float()
    return values if values.ndim == 2 else values[None]


def _same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[part], b[part]) for part in a)


def _idle(factors: ModuleWeights, sources: Sequence[_Source], allowed: bool) -> list[str]:
    idle = factors.idle([source.adapter.modules.keys() for source in sources])
    if idle and not allowed:
        raise InputError(f"no module for the weights of {', '.join(idle)}; --allow-unmatched goes on without")
    return idle


def _check_rank(rule: Rule | None, sources: Sequence[_Source], names: Sequence[str]) -> None:
    """A rank that no module can have is a slip of the hand."""
    if rule is None or rule.kind != "fixed" or not names:
        return
    most = 0
    for name in names:
        deltas = [source.adapter.modules[name] for source in sources if name in source.adapter.modules]
        sides = [min(d.shape[0], math.prod(d.shape[1:])) for d in deltas if d.shape is not None]
        most = max(most, min([*sides, sum(delta.low_rank_size or 0 for delta in deltas)]))
    if rule.value > most:
        raise UsageError(
            f"--rank {rule.value:g}: the adapters' ranks together are {most} at most; --rank full keeps all"
        )


def _keys(sources: Sequence[_Source], seed: float) -> list[str]:
    """What each adapter's draws depend on: not on its place, but on what it is."""
    seen: dict[str, int] = {}
    keys = []
    for source in sources:
        seen[source.sha256] = seen.get(source.sha256, 0) + 1
        keys.append(f"merge/{seed:g}/{source.sha256}/{seen[source.sha256]}")
    return keys


def _join(
    name: str, *, sources: Sequence[_Source], rows: Sequence[Sequence[float]], factors: ModuleWeights, method: str,
    settings: Mapping[str, Any], rule: Rule | None, keys: Sequence[str],
) -> list[Made]:  # fmt: skip
    """One module in every output; read once."""
    deltas = [
        plain(source.adapter.modules[name].materialised()) if name in source.adapter.modules else None
        for source in sources
    ]
    deltas = [_floats(delta) if delta is not None else None for delta in deltas]
    part, found = MERGE_METHODS[method], []
    draws = "generators" in inspect.signature(part.merge).parameters
    for row in rows:
        weights = [weight * factors.factor(i, name) for i, weight in enumerate(row)]
        more = {"generators": [generator(key, name) for key in keys]} if draws else {}
        try:
            found.append(merged(part, deltas, weights, {**settings, **more}, rule))
        except ValueError as error:
            shapes = {delta.shape for delta in deltas if delta is not None}
            why = "the adapters are for different base models: " if len(shapes) > 1 else f"--method {method}: "
            raise InputError(f"{name}: {why}{error}") from error
    return found


def _floats(delta: LowRank) -> LowRank:
    """In float32, converted once for all outputs."""
    return delta.mapped(lambda x: x.float())


def _spread(found: Mapping[str, Made], rule: Rule, rest: Adapter, dtype: torch.dtype) -> dict[str, Made]:
    """The ranks that fit into a file of the budget's bytes, keys, tokens and metadata included."""
    size = torch.empty(0, dtype=dtype).element_size()
    header = 1500 + sum(len(f"{key}{value}".encode()) + 8 for key, value in rest.metadata.items())
    vectors = sum(math.prod(x.shape) * size + 200 for by in rest.embeddings.values() for x in by.values())
    a_module = 3 * (max((len(name) for name in found), default=0) + 120) + 4
    left = rule.value - header - vectors
    triplets = {name: made.found for name, made in found.items() if made.found is not None}
    ranks = allot(triplets, Rule("budget", max(0.0, left), rule.cap), size, a_module)
    if triplets and not any(ranks.values()):
        raise UsageError(
            f"--budget {rule.value:g} bytes hold nothing of the adapter ({header + vectors} are for the rest)"
        )
    return {name: made.at(ranks.get(name, 0)) for name, made in found.items()}


def _metadata(
    sources: Sequence[_Source], row: Sequence[float], method: str, settings: Mapping[str, Any], rule: Rule | None,
    choices: Choices,
) -> dict[str, str]:  # fmt: skip
    recipe: dict[str, Any] = {
        "method": method,
        "sources": [
            {"file": source.file.name, "sha256": source.sha256, "weight": weight}
            for source, weight in zip(sources, row, strict=True)
        ],
    }
    recipe |= {"settings": {**settings, **choices.settings}} if choices.settings else {}
    recipe |= {"rank": {"kind": rule.kind, "value": rule.value, "cap": rule.cap}} if rule is not None else {}
    recipe |= {"part_weights": list(choices.parts)} if choices.parts else {}
    recipe |= {"block_weights": list(choices.blocks)} if choices.blocks else {}
    names = [source.file.name for source in sources]
    return merged_metadata([source.adapter.metadata for source in sources], names, recipe)


def _figures(path: Path, row: Sequence[float], found: Mapping[str, Made]) -> dict[str, Any]:
    kept = {name: made for name, made in found.items() if made.low is not None}
    # What a budget leaves out is lost whole; what cancels is not there to lose.
    lost = [name for name, made in found.items() if made.low is None and made.error]
    return {
        "output": str(path),
        "weights": list(row),
        "layers": len(kept),
        "ranks": {name: made.low.rank for name, made in kept.items() if made.low is not None},
        "error": max([made.error for made in kept.values()] + [1.0] * bool(lost), default=0.0),
        "energy": {name: 1.0 - made.error**2 for name, made in found.items() if name in kept or name in lost},
    }


def _report(series: Sequence[Mapping[str, Any]], unmatched: Sequence[str], note: Note, swept: bool) -> dict[str, Any]:
    first = {key: value for key, value in series[-1].items() if key not in ("output", "weights")}
    worst = max(one["error"] for one in series)
    if worst:
        note(f"worst relative error of a module, by the rank: {worst:.2g}")
    return {
        "outputs": [one["output"] for one in series],
        **first,
        "error": worst,
        "unmatched": list(unmatched),
        **({"series": list(series)} if swept else {}),
    }
