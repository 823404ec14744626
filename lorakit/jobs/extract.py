"""What fine-tuning changed, as an adapter: two models compared, or the adapter that a file or a run holds."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorakit.adapter import Adapter
from lorakit.deltas._base import Delta
from lorakit.deltas.low_rank import LowRank, plain
from lorakit.deltas.norm import Norm
from lorakit.errors import InputError, UsageError
from lorakit.families import FAMILIES
from lorakit.formats import files
from lorakit.formats.adapters._modules import balanced, family_of
from lorakit.formats.checkpoints import describe
from lorakit.io.files import check_target, write_text
from lorakit.jobs import adapters
from lorakit.jobs.differences import Differences, Pair, chosen, compare, difference
from lorakit.lowrank import noise
from lorakit.lowrank.certified import Certified, Wanted
from lorakit.lowrank.decomposed import Decomposed, of_factors
from lorakit.lowrank.gram import by_gram
from lorakit.lowrank.randomised import leading
from lorakit.lowrank.ranks import Rule, allot
from lorakit.lowrank.tucker import core_of
from lorakit.registry import nearest
from lorakit.reports.spectra import Spectrum, page
from lorakit.runtime.room import Room
from lorakit.runtime.workers import cores, each
from lorakit.targets import PARTS, is_known

Note = Callable[[str], None]
TOKENS = "tokens"
_DEFAULT = Rule("fixed", 32)
_ROOM = 512 << 20  # bytes that modules in work may take together
_RUN_KEYS = ("lorakit.checkpoint", "lorakit.step")
_NARROW = 16  # channels: a kernel between fewer (the first, the last) has no core to speak of
_TIMES = 4  # times the ranks that a budget allows on average: as many as one module may take of it


@dataclass(frozen=True)
class Choices:
    """What an extraction can be told.

    rule            what decides the ranks; None is rank 32 with a base model, and leaves an adapter as it is
    conv_rank       at most this for kernels larger than 1x1; under a fixed rank, this
    conv_tucker     those kernels as up, core and down
    target, parts   which modules; target "attention", "attention+ff", "all" or a regular expression, parts all if empty
    clamp_quantile  factors' values beyond this quantile are cut to it, as sd-scripts does
    exact           complete decompositions only
    keep_bias       changed biases and norms become part of the adapter
    """

    rule: Rule | None = None
    conv_rank: int | None = None
    conv_tucker: bool = False
    target: str = "all"
    parts: Sequence[str] = ()
    clamp_quantile: float | None = None
    exact: bool = False
    keep_bias: bool = False

    def rule_of(self, shape: Sequence[int], default: Rule | None = None) -> Rule:
        rule = self.rule or default or Rule("full")
        if self.conv_rank is None or not _is_kernel(shape):
            return rule
        if rule.kind in ("fixed", "full"):
            return Rule("fixed", self.conv_rank, rule.cap)
        return replace(rule, cap=min(self.conv_rank, rule.cap or self.conv_rank))


@dataclass(frozen=True)
class Taken:
    """One module's result. delta is None where nothing is above the rounding noise, or a budget left it out.

    found       the triplets, where a budget still has to decide
    kept        share of the squared norm, 0 to 1
    of_optimum  at least this share of what the best adapter of this rank holds
    excess      at most this above the best one's error, relative to the norm
    """

    name: str
    shape: tuple[int, ...]
    delta: Delta | None
    rank: int
    kept: float
    of_optimum: float
    excess: float
    norm: float
    floor: float
    values: tuple[float, ...]
    found: Decomposed | None = None
    clamped: float = 0.0


def run(
    tuned: str, output: Path, *, base: str | None, choices: Choices, file_format: str, dtype: torch.dtype = torch.float32,
    report: Path | None = None, force: bool, dry_run: bool, tick: Callable[[int, int], None], note: Note,
) -> dict[str, Any]:  # fmt: skip
    """The nearest adapter of the ranks asked for; without a base, TUNED's own adapter, re-ranked if asked."""
    for path in (output, report):
        if path is not None:
            check_target(path, force=force)
    unknown = [part for part in choices.parts if part not in (*PARTS, TOKENS)]
    if unknown:
        hints = "; ".join(f"no part '{part}'{nearest(part, (*PARTS, TOKENS))}" for part in unknown)
        raise UsageError(f"--parts: {hints} (there are: {', '.join((*PARTS, TOKENS))})")
    if base is None:
        adapter, found, family, extra = _own(tuned, choices, dtype, tick)
    else:
        adapter, found, family, extra = _between(tuned, base, choices, dtype, tick, note, dry_run)
    if dtype == torch.float16:
        modules = {n: balanced(x) if isinstance(x, LowRank) else x for n, x in adapter.modules.items()}
        adapter = replace(adapter, modules=modules)
    written = [] if dry_run else [str(path) for path in (output, report) if path is not None]
    if dry_run:
        note(f"{len(adapter.modules)} modules would be written to {output}")
    else:
        adapters.save(output, adapter, file_format, dtype, family)
        if report is not None:
            write_text(report, page([_spectrum(one) for one in found], f"{Path(tuned).name}: what was extracted"))
    return {"outputs": written, "family": family, **_figures(adapter, found), **extra}


# Between two models


def _between(
    tuned: str, base: str, choices: Choices, dtype: torch.dtype, tick: Callable[[int, int], None], note: Note,
    dry_run: bool,
) -> tuple[Adapter, list[Taken], str | None, dict[str, Any]]:  # fmt: skip
    if TOKENS in choices.parts:
        raise UsageError("--parts tokens is for adapters: two models have no learned tokens to compare")
    pairs = compare(tuned, base, choices.target, choices.parts)
    for line in pairs.lone:
        note(f"not compared: {line}")
    choices = _checked(choices, pairs, dtype)
    rule = choices.rule or _DEFAULT
    if dry_run:
        note(f"{len(pairs.weights)} weights of {tuned} and {base} would be compared")
        return Adapter({}), [], pairs.family, {"identical": 0, "skipped": {}}
    found, same, bad = _weights(pairs.weights, choices, rule, tick)
    others, same_others = _others(pairs.others, bad)
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise InputError(f"NaN or infinity in {', '.join(bad[:5])}{more}; one of {tuned} and {base} is damaged")
    skipped = _kinds(others)
    _say(skipped, choices.keep_bias, note)
    modules, biases = _kept(others) if choices.keep_bias else ({}, {})
    if not found and not modules and not biases:
        what = ", ".join(f"{len(names)} {kind}" for kind, names in skipped.items() if names)
        differ = f"differ only in {what} (--keep-bias keeps biases and norms)" if what else "have the same weights"
        raise InputError(f"{tuned} and {base} {differ}: there is nothing to extract")
    if rule.kind == "budget":
        found = _spread(found, rule, dtype)
    if choices.keep_bias:
        skipped |= {"biases": [], "norms": []}
    skipped["no_room" if rule.kind == "budget" else "noise"] = [one.name for one in found if one.delta is None]
    modules |= {one.name: one.delta for one in found if one.delta is not None}
    if not modules and not biases:
        raise InputError(f"{tuned} and {base} differ by rounding noise alone: there is nothing to extract")
    _tell(found, choices, rule, note)
    adapter = Adapter(modules, _metadata(tuned, base, choices, rule, pairs.family), biases)
    extra = {
        "identical": same + same_others, "skipped": skipped, "kept_biases": len(biases), "not_compared": pairs.lone,
    }  # fmt: skip
    return adapter, found, pairs.family, extra


def _weights(
    pairs: Sequence[Pair], choices: Choices, rule: Rule, tick: Callable[[int, int], None]
) -> tuple[list[Taken], int, list[str]]:
    """(what was taken of weights that differ, how many do not, names of those that are not finite)."""
    work = partial(_module, choices=choices, rule=rule, room=Room(_ROOM))
    found: list[Taken] = []
    same, bad = 0, list[str]()
    for done, one in enumerate(each(work, pairs, cores()), 1):
        if one is None:
            same += 1
        elif isinstance(one, str):
            bad.append(one)
        else:
            found.append(one)
        tick(done, len(pairs))
    return found, same, bad


def _tell(found: Sequence[Taken], choices: Choices, rule: Rule, note: Note) -> None:
    left = sum(one.delta is None for one in found)
    if left:
        note(f"{left} modules were left out: {'nothing but rounding noise' if rule.kind == 'auto' else 'no room'}")
    if choices.clamp_quantile is not None:
        lost = max((one.clamped for one in found), default=0.0)
        note(f"--clamp-quantile {choices.clamp_quantile:g} adds an error of up to {lost:.1%} of a module's norm")


def _checked(choices: Choices, pairs: Differences, dtype: torch.dtype) -> Choices:
    """A rank that no module can have is a slip of the hand. A budget gets its cap."""
    sides = [min(pair.shape[0], math.prod(pair.shape[1:])) for pair in pairs.weights]
    rule = choices.rule
    if rule is not None and rule.kind == "fixed" and rule.value > max(sides):
        raise UsageError(f"--rank {rule.value:g}: no module has more than {max(sides)}; --rank full keeps all")
    if rule is not None and rule.kind == "budget":
        size = torch.empty(0, dtype=dtype).element_size()
        average = rule.value / (size * sum(pair.shape[0] + math.prod(pair.shape[1:]) for pair in pairs.weights))
        cap = max(8, math.ceil(_TIMES * average))
        return replace(choices, rule=replace(rule, cap=min(cap, rule.cap or cap)))
    return choices


def _module(pair: Pair, *, choices: Choices, rule: Rule, room: Room) -> Taken | str | None:
    """One module compared; None where both are the same, its name where it is not finite."""
    with room.take(pair.room):
        values = pair.read()
        if values is None:
            return None
        tuned, base = values
        try:
            delta = difference(tuned, base)
        except ValueError:
            return pair.name
        if delta is None:
            return None
        rule = choices.rule_of(pair.shape, rule)
        auto = rule.kind == "auto"
        kinds = pair.tuned.dtype, pair.base.dtype

        def floor(side: int, found: Decomposed | None = None) -> float:
            """The noise of an unfolding: by outputs (0) or by inputs (1)."""
            a, b = (x.float().transpose(0, side).reshape(x.shape[side], -1) for x in (tuned, base))
            more = (found.s, found.total) if found is not None else ()
            return noise.floor(a, kinds[0], b, kinds[1], *more)

        if choices.conv_tucker and _is_kernel(pair.shape) and min(pair.shape[:2]) >= _NARROW:
            return _tucker(pair.name, delta, rule, (floor(0), floor(1)) if auto else (0.0, 0.0))
        least = floor(0) if auto else 0.0
        seed = int.from_bytes(hashlib.sha256(pair.name.encode()).digest()[:7], "little")
        flat = delta.reshape(pair.shape[0], -1)
        found = solved(flat, pair.shape, wanted_of(rule, pair.shape, least), exact=choices.exact, seed=seed)
        if least:
            found = replace(found, floor=floor(0, found))
        if rule.kind == "budget":
            return _taken(pair.name, found, 0, rule, found=_short(found, rule.cap))
        one = _taken(pair.name, found, allot({pair.name: found}, rule)[pair.name], rule)
        return one if choices.clamp_quantile is None else _clamped(one, flat, choices.clamp_quantile)


def solved(delta: Tensor, shape: tuple[int, ...], wanted: Wanted, *, exact: bool, seed: int = 0) -> Certified:
    """The leading triplets of a delta [out, in*kh*kw]: by a sketch where that is less work and can be proven good."""
    found = None if exact else leading(delta, shape, wanted, seed)
    return by_gram(delta, shape, wanted) if found is None else found


def wanted_of(rule: Rule, shape: Sequence[int], floor: float = 0.0) -> Wanted:
    """What has to be found of a weight of this shape for the rule to be applied."""
    side = min(shape[0], math.prod(shape[1:]))
    most = min(side, rule.cap or side)
    if rule.kind == "fixed":
        return Wanted(min(most, int(rule.value)))
    if rule.kind == "energy":
        return Wanted(most, share=rule.value)
    return Wanted(most, floor=floor)


def _tucker(name: str, delta: Tensor, rule: Rule, floors: tuple[float, float]) -> Taken:
    sides = min(delta.shape[:2])
    most = min(sides, rule.cap or sides, int(rule.value) if rule.kind == "fixed" else sides)
    core = core_of(delta, most)
    rank = core.most
    if rule.kind == "energy":
        rank = core.rank_for(rule.value)
    elif floors[0]:
        rank = min(rank, max(int((side.s > f).sum()) for side, f in zip((core.outer, core.inner), floors, strict=True)))
    kept, excess = core.kept(rank), core.excess(rank)
    best = 1 - max(0.0, max(0.0, 1 - kept) ** 0.5 - excess) ** 2
    return Taken(
        name, tuple(delta.shape), core.cut(rank) if rank else None, rank, kept, min(1.0, kept / best) if best else 1.0,
        excess, core.outer.total**0.5, floors[0], tuple(core.outer.s.tolist()),
    )  # fmt: skip


def _taken(name: str, triplets: Decomposed, rank: int, rule: Rule, found: Decomposed | None = None) -> Taken:
    share, excess = 1.0, 0.0
    if isinstance(triplets, Certified):
        share, excess = triplets.of_optimum(rank), triplets.excess(rank)
    return Taken(
        name, triplets.shape, triplets.cut(rank) if rank else None, rank, triplets.kept(rank), share, excess,
        max(0.0, triplets.total) ** 0.5, triplets.floor, tuple(triplets.s.tolist()), found,
    )  # fmt: skip


def _short(found: Decomposed, most: int | None) -> Decomposed:
    """The first triplets alone."""
    if most is None or most >= len(found.s):
        return found
    return replace(found, u=found.u[:, :most].clone(), s=found.s[:most], vh=found.vh[:most].clone())


def _clamped(one: Taken, delta: Tensor, quantile: float) -> Taken:
    """The module with its factors' values cut to a quantile of theirs, and what that does to it."""
    if not isinstance(one.delta, LowRank):
        return one
    low = one.delta.mapped(lambda x: _cut_to(x, quantile))
    up, down = low.factors()
    before, after = ((delta - a @ b).norm().item() / one.norm for a, b in (one.delta.factors(), (up, down)))
    return replace(
        one, delta=low, kept=max(0.0, 1 - after**2), excess=one.excess + after - before, clamped=after - before
    )


def _cut_to(x: Tensor, quantile: float) -> Tensor:
    values = x.abs().flatten().sort().values  # torch.quantile refuses more than 16 million
    limit = float(values[min(len(values) - 1, math.ceil(quantile * (len(values) - 1)))])
    return x.clamp(-limit, limit)


def _others(pairs: Sequence[Pair], bad: list[str]) -> tuple[dict[str, Tensor], int]:
    """(parameter to difference of those that differ, how many do not); names of those that are not finite go to `bad`."""
    found, same = {}, 0
    for pair in pairs:
        values = pair.read()
        if values is None:
            same += 1
            continue
        try:
            delta = difference(*values)
        except ValueError:
            bad.append(pair.name)
            continue
        if delta is None:
            same += 1
        else:
            found[pair.name] = delta if delta.ndim == 1 else delta.new_zeros(())  # embeddings are named, not kept
    return found, same


def _kinds(others: Mapping[str, Tensor]) -> dict[str, list[str]]:
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


def _kept(others: Mapping[str, Tensor]) -> tuple[dict[str, Delta], dict[str, Tensor]]:
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


def _spread(found: Sequence[Taken], rule: Rule, dtype: torch.dtype) -> list[Taken]:
    """The ranks that fit into a file of the budget's bytes, keys and metadata included."""
    size = torch.empty(0, dtype=dtype).element_size()
    a_module = 3 * (max((len(one.name) for one in found), default=0) + 120) + 4
    triplets = {one.name: one.found for one in found if one.found is not None}
    ranks = allot(triplets, Rule("budget", max(0.0, rule.value - 2500), rule.cap), size, a_module)
    if triplets and not any(ranks.values()):
        raise UsageError(f"--budget {rule.value:g} bytes hold nothing of the adapter")
    # The spectrum is of all that was found, the triplets of what the cap of a kernel left.
    return [
        replace(_taken(one.name, one.found, ranks[one.name], rule), values=one.values) if one.found is not None else one
        for one in found
    ]


def _metadata(tuned: str, base: str | None, choices: Choices, rule: Rule | None, family: str | None) -> dict[str, str]:
    settings = {k: v for k, v in asdict(choices).items() if k != "rule" and v not in (None, False, "all", ())}
    recipe = {
        "tuned": Path(tuned).name,
        **({"base": Path(base).name} if base is not None else {}),
        **({"rank": {k: v for k, v in asdict(rule).items() if v is not None}} if rule is not None else {}),
        **settings,
    }
    found = {"lorakit.extract": json.dumps(recipe, ensure_ascii=False, sort_keys=True, default=list)}
    if family is not None:
        found["ss_base_model_version"] = FAMILIES[family].version
        found["modelspec.architecture"] = f"{FAMILIES[family].architecture}/lora"
    return found


# Out of an adapter


def _own(
    tuned: str, choices: Choices, dtype: torch.dtype, tick: Callable[[int, int], None]
) -> tuple[Adapter, list[Taken], str | None, dict[str, Any]]:
    """The adapter of a file, a folder or a run."""
    adapter = _read(Path(tuned))
    family = family_of(adapter).family
    adapter = _part_of(adapter, tuned, choices)
    rule = choices.rule
    found: list[Taken] = []
    if rule is None and choices.conv_rank is None:
        found = [_whole(name, delta) for name, delta in adapter.modules.items()]
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
            found = _spread(found, rule, dtype)
        adapter = replace(adapter, modules={one.name: one.delta for one in found if one.delta is not None})
    kept = {key: value for key, value in adapter.metadata.items() if key not in _RUN_KEYS}
    recipe = _metadata(tuned, None, choices, rule, None)
    return (
        replace(adapter, metadata={**kept, **recipe}).materialised(),
        found,
        family,
        {"tokens": sorted(adapter.embeddings)},
    )


def _read(path: Path) -> Adapter:
    if path.is_dir() and (path / "model_index.json").is_file():
        raise InputError(f"{path} is a base model and no adapter; say with --base what to compare it with")
    if path.is_dir():
        steps = sorted(path.rglob("step-*.safetensors"))
        path = steps[-1] if steps else path
    tensors, metadata = files.contents(path)
    if describe(tensors, metadata) is not None:
        raise InputError(f"{path} is a base model and no adapter; say with --base what to compare it with")
    adapter = files.read(path)
    if not adapter.modules and not adapter.embeddings and not adapter.biases:
        raise InputError(f"{path}: there is no adapter in it")
    return adapter


def _part_of(adapter: Adapter, tuned: str, choices: Choices) -> Adapter:
    """The parts and modules that are asked for."""
    parts, has = choices.parts, _parts(adapter)
    missing = [part for part in parts if part not in has]
    if missing:
        raise InputError(f"{tuned} has no {', '.join(missing)}; it has {', '.join(has)}")
    names = set(chosen(choices.target, {*adapter.modules, *adapter.biases}))
    if choices.target != "all" and not names:
        raise InputError(f"--target {choices.target}: no module of {tuned} matches")

    def asked(name: str) -> bool:
        return name in names and (not parts or name.partition(".")[0] in parts)

    return replace(
        adapter,
        modules={name: delta for name, delta in adapter.modules.items() if asked(name)},
        biases={name: bias for name, bias in adapter.biases.items() if asked(name)},
        embeddings=adapter.embeddings if not parts or TOKENS in parts else {},
        unknown={},
    )


def _parts(adapter: Adapter) -> list[str]:
    heads = {name.partition(".")[0] for name in (*adapter.modules, *adapter.biases)}
    return [*(part for part in PARTS if part in heads), *([TOKENS] if adapter.embeddings else [])]


def _sides(delta: Delta) -> tuple[int, int]:
    shape = delta.shape or (0,)
    return shape[0], math.prod(shape[1:])


def _whole(name: str, delta: Delta) -> Taken:
    """A module that stays as it is."""
    norm = 0.0 if delta.needs_base else delta.norm()
    return Taken(name, delta.shape or (), delta, delta.rank or 0, 1.0, 1.0, 0.0, norm, 0.0, ())


def _reranked(name: str, *, modules: Mapping[str, Delta], choices: Choices) -> Taken:
    low = plain(modules[name].materialised())
    if not all(bool(x.isfinite().all()) for x in (low.down, low.up)):
        raise InputError(f"NaN or infinity in {name}")
    up, down = low.factors()
    found = of_factors(up, down, low.shape)
    rule = choices.rule_of(low.shape)
    if rule.kind == "budget":
        return _taken(name, found, 0, rule, found=_short(found, rule.cap))
    return _taken(name, found, allot({name: found}, rule)[name], rule)


# What is said of it


def _is_kernel(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and shape[2] * shape[3] > 1


def _spectrum(one: Taken) -> Spectrum:
    return Spectrum(one.name, one.shape, one.rank, one.norm, one.kept, one.excess, one.values, one.floor)


def _figures(adapter: Adapter, found: Sequence[Taken]) -> dict[str, Any]:
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
        "certificate": {
            "largest": max((one.excess for one in taken), default=0.0),
            "by_layer": {one.name: one.excess for one in taken},
            "share_of_optimum": min((one.of_optimum for one in taken), default=1.0),
        },
    }
