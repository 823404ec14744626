"""An adapter's deltas added to a base model for good: a stand-alone checkpoint or diffusers folder. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.adapter import Adapter
from lorakit.arrays import SIZES, Stored, cast, finite, floats, is_torch, raw
from lorakit.deltas._base import Delta
from lorakit.deltas.full import Full
from lorakit.errors import InputError, NumericError, UsageError
from lorakit.families import Unet
from lorakit.formats.adapters._modules import Context, Encoded
from lorakit.formats.layouts import FOLDER, SINGLE, UNET_FILE, Model, _ckpt, folder, open_model, original
from lorakit.formats.layouts._architecture import tokenizer_of
from lorakit.formats.layouts._describe import architecture, configs_of
from lorakit.formats.layouts._place import THIRDS, Rule, below, rows, spelled, stored
from lorakit.io import safetensors
from lorakit.io.files import check_target, replacing_folder
from lorakit.registry import ADAPTER_FORMATS

Note = Callable[[str], None]
Plan = dict[str, dict[str, Stored]]  # file to key to tensor
FLOATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_PIECE = 2 << 20  # numbers worked on at a time
_TOKENS = "text_model.embeddings.token_embedding.weight"
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


def is_folder(output: Path) -> bool:
    """Whether an output is a diffusers folder: it is one already, or its name has no suffix of a file."""
    return output.is_dir() or output.suffix not in (".safetensors", ".ckpt")


@dataclass
class Sums:
    """What became of the deltas when they were rounded: <rounded change, delta> and ||delta||², by module."""

    by_module: dict[str, tuple[float, float]] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        over, under = (sum(pair[i] for pair in self.by_module.values()) for i in (0, 1))
        shares = {name: a / b for name, (a, b) in self.by_module.items() if b}
        worst = sorted(shares, key=lambda name: (shares[name], name))[:10]
        return {"retained": over / under if under else 1.0, "retained_worst": {name: shares[name] for name in worst}}


@dataclass(frozen=True)
class Rounding:
    """To which type, None for each tensor's own; and whether by chance, seeded by the parameter's name."""

    dtype: str | None = None
    stochastic: bool = False
    seed: int = 0

    def of(self, x: Stored) -> str:
        return x.dtype if self.dtype is None or not _is_float(x.dtype) else self.dtype

    def chance(self, name: str) -> np.random.Generator | None:
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return np.random.Generator(np.random.SFC64(int.from_bytes(digest, "little"))) if self.stochastic else None


def fuse(
    adapter: Adapter, model: str, output: Path, *, dtype: str | None = None, stochastic_rounding: bool = False,
    seed: int = 0, allow_unmatched: bool = False, force: bool = False, dry_run: bool = False,
    metadata: Mapping[str, str] | None = None, tokenizer: Path | None = None,
    tick: Callable[[int, int], None] = lambda done, of: None, note: Note = lambda text: None,
) -> dict[str, Any]:  # fmt: skip
    """Write `model` with the adapter's deltas in its weights and the learned tokens in its text encoders.

    output     out.safetensors, out.ckpt, or a diffusers folder; the model may be of either layout
    dtype      "float32", "float16", "bfloat16" for all weights; None keeps each one's own
    tokenizer  a folder with a tokenizer's files, for a folder made from a single file
    raises     InputError for modules that are not in the model or do not fit it; NumericError for NaN, infinity and
               what overflows `dtype`; UnavailableError for a tokenizer that is not to be had. Nothing is written then.
    """
    from lorakit.models.config import folder_of

    if dtype is not None and dtype not in FLOATS:
        raise UsageError(f"dtype {dtype}: expected one of {', '.join(FLOATS)}")
    to_folder = is_folder(output)
    check_target(output, force=force, folder=to_folder)
    base = open_model(model, folder_of)
    if base.path.resolve() == output.resolve():
        raise UsageError(f"{output} is the model itself; choose another output")
    rounding, sums = Rounding(None if dtype is None else FLOATS[dtype], stochastic_rounding, seed), Sums()
    changes, unmatched = _changes(adapter, base, allow_unmatched, note)
    beside = {} if to_folder else _beside(adapter, output, force)
    vocabulary = _vocabulary(adapter, base, tokenizer) if to_folder else {}
    arrays = dict(base.arrays)
    for name, delta in changes.items():
        arrays[name] = _changed(name, base.arrays[name], delta, rounding, sums)
    for part, added in vocabulary.items():
        arrays[f"{part}.{_TOKENS}"] = added.embedded(arrays[f"{part}.{_TOKENS}"])
    result: dict[str, Any] = {
        "outputs": [], "layers": len({_module(name) for name in changes}), "unmatched": unmatched,
        "tokens": sorted(adapter.embeddings), "layout": FOLDER if to_folder else SINGLE, "left_out": [],
    }  # fmt: skip
    same = base.layout == FOLDER if to_folder else base.layout in (SINGLE, UNET_FILE)
    plan = _same(base, arrays) if same else _other(base, arrays, to_folder, result, note)
    if dry_run:
        note(f"{result['layers']} modules of {model} would be changed and written to {output}")
        return result
    ready = _counted(plan, rounding, tick)
    if to_folder:
        touched = {*changes, *(f"{part}.{_TOKENS}" for part in vocabulary)}
        untouched = set() if dtype is not None else {file for file in base.files if file.endswith(".safetensors")}
        untouched -= {base.places[name].file for name in touched}
        _write_folder(base, output, ready, untouched, same, vocabulary, tokenizer, note)
    elif output.suffix == ".ckpt":
        _ckpt.write(output, ready[""])
    else:
        notes = {**base.metadata, **adapter.metadata, **(metadata or {})} if base.layout != FOLDER else metadata or {}
        safetensors.write(output, ready[""], {"format": "pt", **notes}, hashed=False)
    outputs = [output]
    for path, encoded in beside.items():
        safetensors.write(path, encoded.tensors, encoded.metadata)
        outputs.append(path)
        note(f"learned token {encoded.metadata.get('name', '')} is beside the checkpoint: {path}")
    result["outputs"] = [str(path) for path in outputs]
    result |= sums.report()
    if any(rounding.of(base.arrays[name]) in ("F16", "BF16") for name in changes):
        note(f"{result['retained']:.1%} of the delta is in the weights after the rounding to half precision")
    return result


def _module(name: str) -> str:
    return name.removesuffix(".weight").removesuffix(".bias")


def _is_float(dtype: str) -> bool:
    return dtype[0] == "F" or dtype == "BF16"


def _changes(adapter: Adapter, base: Model, allow: bool, note: Note) -> tuple[dict[str, Delta], list[str]]:
    """(delta by parameter, modules that the model lacks); InputError for deltas that do not fit or are not finite."""
    wanted = {f"{name}.weight": delta for name, delta in adapter.modules.items()}
    wanted |= {f"{name}.bias": Full(x) for name, x in adapter.biases.items()}
    missing = sorted(_module(name) for name in wanted if name not in base.places)
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        text = f"{base.path} has no {', '.join(missing[:10])}{more}"
        if not allow:
            raise InputError(f"{text}; is the adapter for another family? Leave them out with --allow-unmatched")
        note(f"left out: {text}")
    changes = {name: delta for name, delta in wanted.items() if name in base.places}
    wrong = [
        f"{_module(name)} is {list(delta.shape)}, the model's {list(base.arrays[name].shape)}"
        for name, delta in changes.items()
        if delta.shape is not None and _flat(delta.shape) != _flat(base.arrays[name].shape)
    ]
    if wrong:
        raise InputError(f"the adapter does not fit {base.path}: {'; '.join(wrong[:10])}")
    odd = [_module(name) for name, delta in changes.items() if not all(finite(x) for x in delta.arrays().values())]
    odd += [token for token, by in adapter.embeddings.items() if not all(finite(x) for x in by.values())]
    if odd:
        raise NumericError(f"NaN or infinity in the adapter's {', '.join(odd[:10])}; nothing was written")
    return changes, missing


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], prod(shape[1:])


def _numpy(x: Any) -> np.ndarray:
    return np.asarray(x.numpy() if is_torch(x) else x)


def _changed(name: str, base: Stored, delta: Delta, rounding: Rounding, sums: Sums) -> Stored:
    """The parameter with the delta added, when it is asked for; a few rows at a time."""
    dtype = rounding.of(base)

    def read() -> Any:
        out, width = _flat(base.shape)
        data = base.raw()
        held = Stored(base.dtype, (out, width), lambda: data)
        piece = _pieces(delta, held)
        result = np.empty(out * width * SIZES[dtype], np.uint8)
        chance, over, under = rounding.chance(name), 0.0, 0.0
        step, row = max(1, _PIECE // width), width * SIZES[dtype]
        for begin in range(0, out, step):
            end = min(out, begin + step)
            before, change = rows(held, begin, end).float(), piece(begin, end)
            after = before + change
            bits = _rounded(after, dtype, chance)
            result[begin * row : end * row] = np.frombuffer(bits, np.uint8)
            kept = Stored(dtype, after.shape, partial(_same_bits, bits)).float() - before
            over += float(np.vdot(kept, change))
            under += float(np.vdot(change, change))
        if not np.isfinite(under):
            raise NumericError(f"{name}: the delta is too large for float32; nothing was written")
        sums.by_module[name.removesuffix(".weight")] = over, under
        return result.data

    return Stored(dtype, base.shape, read)


def _same_bits(bits: Any) -> Any:
    return bits


def _pieces(delta: Delta, base: Stored) -> Callable[[int, int], np.ndarray]:
    """(begin, end) to those rows of the delta, [end - begin, in*kh*kw] in float32."""
    if delta.low_rank_size is not None and delta.exact:
        up, down = (_numpy(x).astype(np.float32, copy=False) for x in delta.factors())
        return lambda begin, end: up[begin:end] @ down
    if isinstance(delta, Full) and isinstance(delta.diff, Stored):
        flat = Stored(delta.diff.dtype, base.shape, delta.diff.raw)
        return lambda begin, end: rows(flat, begin, end).float().astype(np.float32, copy=False)
    dense = _numpy(delta.delta(base)).reshape(base.shape).astype(np.float32, copy=False)
    return lambda begin, end: dense[begin:end]


def _rounded(values: np.ndarray, dtype: str, chance: np.random.Generator | None) -> Any:
    """The bytes of float32 values in `dtype`; by chance up or down, so that the mean is the value, where asked for."""
    if chance is not None and dtype in ("F16", "BF16"):
        values = _by_chance(values, dtype, chance)
    return raw(cast(values, dtype))


def _by_chance(values: np.ndarray, dtype: str, chance: np.random.Generator) -> np.ndarray:
    """Float32 values moved to one of the two neighbours that `dtype` has, the nearer the likelier.

    The bits that are cut are compared with as many random ones by adding these: a carry rounds up. A value that `dtype`
    has stays. Connolly, Higham and Mary, 2021.
    """
    cut = 16 if dtype == "BF16" else 13
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    noise = np.frombuffer(chance.bytes(2 * bits.size), "<u2").reshape(bits.shape).astype(np.uint32) >> (16 - cut)
    moved = ((bits + noise) & np.uint32(0xFFFFFFFF << cut & 0xFFFFFFFF)).view(np.float32)
    if dtype == "F16":  # below its normal numbers the steps are equal
        small = np.abs(values) < 2.0**-14
        if small.any():
            steps = values[small].astype(np.float64) * 2.0**24
            moved[small] = (np.floor(steps + chance.random(steps.shape)) * 2.0**-24).astype(np.float32)
    odd = ~np.isfinite(values)
    moved[odd] = values[odd]
    return moved


def _typed(x: Stored, rounding: Rounding) -> Stored:
    wanted = rounding.of(x)
    return x if wanted == x.dtype else Stored(wanted, x.shape, lambda: raw(cast(x.float(), wanted)))


def _counted(plan: Mapping[str, Mapping[str, Stored]], rounding: Rounding, tick: Callable[[int, int], None]) -> Plan:
    """The tensors in their types, telling `tick` when one is read."""
    total, done = sum(map(len, plan.values())), count(1)

    def counting(x: Stored) -> Stored:
        def read() -> Any:
            data = x.raw()
            tick(min(next(done), total), total)
            return data

        return Stored(x.dtype, x.shape, read)

    return {file: {key: counting(_typed(x, rounding)) for key, x in held.items()} for file, held in plan.items()}


def _same(base: Model, arrays: Mapping[str, Stored]) -> Plan:
    """The files as they are, but for the parameters whose array is another."""
    plan: Plan = {file: {key: stored(x) for key, x in tensors.items()} for file, tensors in base.files.items()}
    by_key: dict[tuple[str, str], list[Rule]] = {}
    for place in base.places.values():
        by_key.setdefault((place.file, place.rule.key), []).append(place.rule)
    for (file, key), rules in by_key.items():
        if any(arrays[rule.ours] is not base.arrays[rule.ours] for rule in rules):
            plan[file][key] = _assembled(rules, arrays)
    return plan


def _assembled(rules: list[Rule], arrays: Mapping[str, Stored]) -> Stored:
    """A file's tensor, of the parameters that lie in it."""
    parts = [spelled(rule, arrays[rule.ours]) for rule in sorted(rules, key=lambda rule: rule.third or 0)]
    return parts[0] if rules[0].third is None else below(parts)


def _other(base: Model, arrays: Mapping[str, Stored], to_folder: bool, result: dict[str, Any], note: Note) -> Plan:
    """The other layout of the model; what has no place in it is named."""
    if base.layout == UNET_FILE:
        raise UsageError(f"{base.path} is a UNet alone, which makes no diffusers folder")
    lost = [key for _, key in base.leftovers()]
    plan: Plan = {}
    if to_folder:
        for part, rules in folder.wanted(arrays.keys()).items():
            plan[f"{part}/{folder.WEIGHTS[part]}"] = {rule.key: arrays[rule.ours] for rule in rules}
    else:
        unet, kind = _architecture(base)
        names = dict(arrays)
        if kind == "sd2":
            names |= _idle_layer(arrays, note)
        rules = original.wanted(names.keys(), unet, kind)
        by_key: dict[str, list[Rule]] = {}
        for rule in rules:
            by_key.setdefault(rule.key, []).append(rule)
        split = [k for k, of in by_key.items() if of[0].third is not None and len(of) != THIRDS]
        if split:
            raise InputError(f"{base.path}: parts of {split[0]} are missing")
        plan[""] = {key: _assembled(of, names) for key, of in by_key.items()}
        lost += sorted(set(arrays) - {rule.ours for rule in rules})
    lost = [key for key in lost if not key.endswith("position_ids")]
    result["left_out"] = lost
    if lost:
        note(f"{len(lost)} tensors have no place in the other layout and are left out, first {lost[0]}")
    return plan


def _architecture(base: Model) -> tuple[Unet, str]:
    try:
        unet, kind = architecture(base)
    except InputError as error:
        raise InputError(f"it cannot be written in the other layout: {error}") from None
    if unet.layers != original.LAYERS:
        raise InputError(
            f"{base.path} cannot be written as one file: the layout knows {original.LAYERS} layers a block"
        )
    return unet, kind


def _idle_layer(arrays: Mapping[str, Stored], note: Note) -> dict[str, Stored]:
    """SD2's checkpoints have a last text layer that is never run; clients expect it."""
    begin = "text_encoder.text_model.encoder.layers."
    last = max((int(name[len(begin) :].partition(".")[0]) for name in arrays if name.startswith(begin)), default=-1)
    note(f"SD2 files have one more text layer, which is not used: filled with a copy of layer {last}")
    mine = f"{begin}{last}."
    return {f"{begin}{last + 1}.{name[len(mine) :]}": x for name, x in arrays.items() if name.startswith(mine)}


@dataclass(frozen=True)
class Vocabulary:
    """The learned tokens of one text encoder: its tokenizer's files, the numbers of the tokens, their vectors."""

    source: Path
    rows: Mapping[str, int]
    vectors: Mapping[str, np.ndarray]
    end: int | None

    def embedded(self, table: Stored) -> Stored:
        size = max(table.shape[0], *(row + 1 for row in self.rows.values()))

        def read() -> Any:
            held = np.zeros((size, table.shape[1] * SIZES[table.dtype]), np.uint8)
            held[: table.shape[0]] = np.frombuffer(table.raw(), np.uint8).reshape(table.shape[0], -1)
            for token, row in self.rows.items():
                held[row] = np.frombuffer(raw(cast(self.vectors[token], table.dtype)), np.uint8)
            return held.reshape(-1).data

        return Stored(table.dtype, (size, table.shape[1]), read)


def _vocabulary(adapter: Adapter, base: Model, given: Path | None) -> dict[str, Vocabulary]:
    """Text encoder to its tokens. A token of n vectors is n entries: `<s1>`, `<s1>_1` ... as diffusers has it."""
    found: dict[str, Vocabulary] = {}
    for part in ("text_encoder", "text_encoder_2"):
        vectors = {
            token if i == 0 else f"{token}_{i}": row
            for token, by in adapter.embeddings.items()
            if part in by
            for i, row in enumerate(np.atleast_2d(_numpy(floats(by[part]))))
        }
        if not vectors:
            continue
        table = base.arrays.get(f"{part}.{_TOKENS}")
        if table is None:
            raise InputError(f"{base.path} has no {part}, which the learned tokens are for")
        if wrong := [token for token, row in vectors.items() if row.shape != table.shape[1:]]:
            raise InputError(
                f"token {wrong[0]} has vectors of {vectors[wrong[0]].shape[0]}, {base.path}'s {part} takes {table.shape[1]}"
            )
        source = _tokenizer(base, part, given)
        known = _known_tokens(source)
        numbers, free = {}, max(known.values(), default=-1) + 1
        for token in vectors:
            numbers[token] = known.get(token, free)
            free += token not in known
        found[part] = Vocabulary(source, numbers, vectors, known.get("<|endoftext|>"))
    return found


def _known_tokens(source: Path) -> dict[str, int]:
    """Every token of a tokenizer's files and its number."""
    known: dict[str, int] = {}
    for name in ("vocab.json", "added_tokens.json"):
        if (source / name).is_file():
            known |= json.loads((source / name).read_text(encoding="utf-8"))
    config = source / "tokenizer_config.json"
    if config.is_file():
        added = json.loads(config.read_text(encoding="utf-8")).get("added_tokens_decoder", {})
        known |= {entry["content"]: int(number) for number, entry in added.items()}
    if not known:
        raise InputError(f"{source}: no tokenizer that tokens can be added to (vocab.json)")
    return known


def _tokenizer(base: Model, part: str, given: Path | None) -> Path:
    from lorakit.models.config import tokenizer_folder

    return tokenizer_folder(base.path, None if base.layout == FOLDER else _architecture(base)[1], part, given)


def _beside(adapter: Adapter, output: Path, force: bool) -> dict[Path, Encoded]:
    """The learned tokens as files beside a checkpoint, which has no tokenizer to put them in."""
    found: dict[Path, Encoded] = {}
    for token, by in adapter.embeddings.items():
        plain = re.sub(r"[^\w.-]", "", token) or hashlib.sha256(token.encode()).hexdigest()[:8]
        path = output.with_name(f"{output.stem}.{plain}.safetensors")
        if path in found or path == output:
            raise InputError(f"two outputs would be {path}; rename the learned token {token}")
        check_target(path, force=force)
        found[path] = ADAPTER_FORMATS["a1111-embedding"].encode(Adapter({}, embeddings={token: by}), Context())
    return found


def _write_folder(
    base: Model, output: Path, plan: Plan, untouched: set[str], same: bool, vocabulary: Mapping[str, Vocabulary],
    given: Path | None, note: Note,
) -> None:  # fmt: skip
    """Weights, configs and tokenizers; `untouched` are files of the source whose bytes are right as they are."""
    ready = {} if same else configs_of(base, note)
    tokenizers = {} if same else {part: _tokenizer(base, part, given) for part in _texts(base)}
    with replacing_folder(output) as partial:
        if same:
            shutil.copytree(base.path, partial, dirs_exist_ok=True, ignore=_ignored(base, untouched))
        for path, config in ready.items():
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            (partial / path).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for part, source in tokenizers.items():
            (partial / tokenizer_of(part)).mkdir(exist_ok=True)
            for name in _TOKENIZER_FILES:
                if (source / name).is_file():
                    shutil.copyfile(source / name, partial / tokenizer_of(part) / name)
        for file, tensors in plan.items():
            if file not in untouched:
                place = partial / file
                if place.suffix == ".bin":  # pickles are read and not written
                    place = place.with_name(folder.WEIGHTS[file.partition("/")[0]])
                notes = getattr(base.files.get(file), "metadata", {})
                safetensors.write(place, tensors, {"format": "pt", **notes}, hashed=False)
        for part, added in vocabulary.items():
            _add_tokens(partial, part, added)


def _texts(base: Model) -> list[str]:
    return [part for part in ("text_encoder", "text_encoder_2") if f"{part}.{_TOKENS}" in base.arrays]


def _ignored(base: Model, untouched: set[str]) -> Callable[[str, list[str]], set[str]]:
    """For copytree: the weights that are written anew, and their variants."""
    fresh = {file.partition("/")[0] for file in base.files if file not in untouched}
    base_parts = {file.partition("/")[0] for file in base.files}

    def ignore(place: str, names: list[str]) -> set[str]:
        inside = Path(place).relative_to(base.path).as_posix()
        suffixes = (*folder.SUFFIXES, ".ckpt", ".msgpack", ".h5", ".onnx")
        if inside == ".":  # a part of the model has a config; whole checkpoints and programs beside them are none
            parts = {name for name in names if any((base.path / name).glob("*.json")) or name in base_parts}
            files = {name for name in names if (base.path / name).is_file() and not name.endswith((*suffixes, ".py"))}
            return {name for name in names if name not in parts | files or name.startswith(".")}
        if inside in fresh:
            return {name for name in names if name.endswith(suffixes) and f"{inside}/{name}" not in untouched}
        return set()

    return ignore


def _add_tokens(model: Path, part: str, added: Vocabulary) -> None:
    """Write the tokens into the tokenizer's files, and what follows from them into the text encoder's config."""
    place = model / tokenizer_of(part)
    if not place.is_dir():
        place = model / "tokenizer"
    known = _known_tokens(place)
    fresh = {token: row for token, row in added.rows.items() if token not in known}
    own = place / "added_tokens.json"
    held = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
    _dump(own, {**held, **fresh})
    entry = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": False}
    config = place / "tokenizer_config.json"
    if config.is_file():
        content = json.loads(config.read_text(encoding="utf-8"))
        decoder = content.setdefault("added_tokens_decoder", {})
        for token in ("<|startoftext|>", "<|endoftext|>"):  # a decoder that names any must name these
            if token in known:
                decoder.setdefault(str(known[token]), {"content": token, **entry, "normalized": True, "special": True})
        decoder |= {str(row): {"content": token, **entry} for token, row in fresh.items()}
        _dump(config, content)
    whole = place / "tokenizer.json"
    if whole.is_file():
        content = json.loads(whole.read_text(encoding="utf-8"))
        content.setdefault("added_tokens", []).extend(
            {"id": row, "content": token, **entry} for token, row in fresh.items()
        )
        _dump(whole, content)
    config = model / part / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    content["vocab_size"] = max(content.get("vocab_size", 0), *(row + 1 for row in added.rows.values()))
    if content.get("eos_token_id") == 2 and added.end is not None:
        # with 2 transformers takes the largest number for the end of the text, which a learned token now is
        content["eos_token_id"] = added.end
    _dump(config, content)


def _dump(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
