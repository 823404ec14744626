"""An adapter's deltas added to a base model for good: a stand-alone checkpoint or diffusers folder. Imports no torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from lorakit.adapter import Adapter
from lorakit.arrays import Stored, finite
from lorakit.delta import Delta
from lorakit.deltas.full import Full
from lorakit.dtypes import FLOATS
from lorakit.errors import InputError, NumericError, UsageError, some
from lorakit.formats.layouts import FOLDER, SINGLE, UNET_FILE, Model, ckpt, folder, marks, open_model
from lorakit.formats.layouts.architecture import tokenizer_of
from lorakit.fusing.layout import Plan, other_layout, same_layout
from lorakit.fusing.process import said
from lorakit.fusing.tokens import (
    TOKENIZER_FILES,
    TOKENS,
    EncoderVocabulary,
    add_tokens,
    files_beside,
    texts_of,
    tokenizer_files,
    vocabulary_of,
)
from lorakit.fusing.vae import CONFIG, another_vae
from lorakit.fusing.weights import Rounding, Sums, changed, flat, typed
from lorakit.io import safetensors
from lorakit.io.endings import MERGED_MODEL
from lorakit.io.files import check_target, replacing_folder
from lorakit.io.inputs import check_plain
from lorakit.naming import spelled
from lorakit.process_config import NOTHING, Overrides
from lorakit.talk import SILENT, Note, Talk, Tick

NOTES = "lorakit.json"  # what a model folder says of how it was made


def fuse(
    adapter: Adapter,
    model: str,
    output: Path,
    *,
    dtype: str | None = None,
    stochastic_rounding: bool = False,
    seed: int = 0,
    allow_unmatched: bool = False,
    force: bool = False,
    dry_run: bool = False,
    metadata: Mapping[str, str] | None = None,
    tokenizer: Path | None = None,
    wanted: Overrides = NOTHING,
    scheduler: Mapping[str, Any] | None = None,
    vae: str | None = None,
    talk: Talk = SILENT,
) -> dict[str, Any]:
    """Write `model` with the adapter's deltas in its weights and the learned tokens in its text encoders.

    output     out.safetensors, out.ckpt, or a diffusers folder; the model may be of either layout
    dtype      "float32", "float16", "bfloat16" for all weights; None keeps each one's own
    tokenizer  a folder with a tokenizer's files, for a folder made from a single file
    wanted     what the user says of the model's process in place of what it says itself
    vae        another autoencoder in the place of the model's own: a hub id, a folder or a file
    metadata   of a single file; in a folder it stands in a file of its own
    scheduler  the scheduler's config of the result, where it is known; else it is what the model says
    raises     InputError for modules that are not in the model or do not fit it; NumericError for NaN, infinity and
               what overflows `dtype`; UnavailableError for a tokenizer that is not to be had. Nothing is written then.
    """
    from lorakit.models.places import folder_of

    if dtype is not None and dtype not in FLOATS:
        raise UsageError(f"dtype {dtype}: expected one of {', '.join(FLOATS)}")
    to_folder = MERGED_MODEL.is_folder(output)
    check_target(output, MERGED_MODEL, force=force)
    base = open_model(model, folder_of)
    if base.path.resolve() == output.resolve():
        raise UsageError(f"{output} is the model itself; choose another output")
    rounding, sums = Rounding(None if dtype is None else FLOATS[dtype], stochastic_rounding, seed), Sums()
    changes, unmatched = _changes(adapter, base, allow_unmatched, talk.note)
    beside = {} if to_folder else files_beside(adapter, output, force)
    vocabulary = vocabulary_of(adapter, base, tokenizer) if to_folder else {}
    other, config = another_vae(vae, base, talk.note) if vae is not None else ({}, None)
    arrays = {**base.arrays, **other}
    for name, delta in changes.items():
        arrays[name] = changed(name, base.arrays[name], delta, rounding, sums)
    for part, added in vocabulary.items():
        arrays[f"{part}.{TOKENS}"] = added.embedded(arrays[f"{part}.{TOKENS}"])
    result: dict[str, Any] = {
        "outputs": [],
        "layers": len({_module(name) for name in changes}),
        "unmatched": unmatched,
        "tokens": sorted(adapter.embeddings),
        "layout": FOLDER if to_folder else SINGLE,
        "left_out": [],
    }
    same = base.layout == FOLDER if to_folder else base.layout in (SINGLE, UNET_FILE)
    plan = same_layout(base, arrays) if same else other_layout(base, arrays, to_folder, result, talk.note)
    process = said(base, to_folder, wanted, scheduler, talk.note, {CONFIG: config} if config is not None else {})
    if not to_folder:
        plan[""] = process.marked(plan[""])
    tokenizers = (
        {part: tokenizer_files(base, part, tokenizer) for part in texts_of(base)} if to_folder and not same else {}
    )
    ready = _counted(plan, rounding, talk.tick)
    touched = {*changes, *other, *(f"{part}.{TOKENS}" for part in vocabulary)}
    untouched = _untouched(base, touched) if to_folder and dtype is None else set()
    if dry_run:
        _check_numbers(output, ready, untouched)
        talk.note(f"{result['layers']} modules of {model} would be changed and written to {output}")
        return result | sums.report()
    if to_folder:
        configs = {**process.configs, **({NOTES: spelled(metadata)} if metadata else {})}
        _write_folder(
            base,
            output,
            ready,
            untouched=untouched,
            same=same,
            vocabulary=vocabulary,
            configs=configs,
            tokenizers=tokenizers,
            note=talk.note,
        )
    else:
        own = {key: text for key, text in adapter.metadata.items() if key not in marks.TEXTS}
        notes = {**base.metadata, **own, **(metadata or {})} if base.layout != FOLDER else metadata or {}
        _write_file(output, ready[""], process.noted(notes))
    outputs = [output]
    for path, encoded in beside.items():
        safetensors.write(path, encoded.tensors, encoded.metadata)
        outputs.append(path)
        talk.note(f"learned token {encoded.metadata.get('name', '')} is beside the checkpoint: {path}")
    result["outputs"] = [str(path) for path in outputs]
    result |= sums.report()
    if any(rounding.of(base.arrays[name]) in ("F16", "BF16") for name in changes):
        talk.note(f"{result['retained']:.1%} of the delta is in the weights after the rounding to half precision")
    return result


def _untouched(base: Model, touched: set[str]) -> set[str]:
    """Files of the source whose bytes are right as they are."""
    return {file for file in base.files if file.endswith(".safetensors")} - {base.places[name].file for name in touched}


def _check_numbers(output: Path, plan: Plan, untouched: set[str]) -> None:
    """Work out every weight that would be written, and raise what its writing would raise."""
    for file, held in plan.items():
        if file not in untouched:
            safetensors.check(output, held, {})


def _module(name: str) -> str:
    return name.removesuffix(".weight").removesuffix(".bias")


def _changes(adapter: Adapter, base: Model, allow: bool, note: Note) -> tuple[dict[str, Delta], list[str]]:
    """(delta by parameter, modules that the model lacks); InputError for deltas that do not fit or are not finite."""
    wanted = {f"{name}.weight": delta for name, delta in adapter.modules.items()}
    wanted |= {f"{name}.bias": Full(x) for name, x in adapter.biases.items()}
    missing = sorted(_module(name) for name in wanted if name not in base.places)
    if missing:
        text = f"{base.path} has no {some(missing, 10)}"
        if not allow:
            raise InputError(f"{text}; is the adapter for another family? Leave them out with --allow-unmatched")
        note(f"left out: {text}")
    changes = {name: delta for name, delta in wanted.items() if name in base.places}
    wrong = [
        f"{_module(name)} is {list(delta.shape)}, the model's {list(base.arrays[name].shape)}"
        for name, delta in changes.items()
        if delta.shape is not None and flat(delta.shape) != flat(base.arrays[name].shape)
    ]
    if wrong:
        raise InputError(f"the adapter does not fit {base.path}: {'; '.join(wrong[:10])}")
    odd = [_module(name) for name, delta in changes.items() if not all(finite(x) for x in delta.arrays().values())]
    odd += [token for token, by in adapter.embeddings.items() if not all(finite(x) for x in by.values())]
    if odd:
        raise NumericError(f"NaN or infinity in the adapter's {', '.join(odd[:10])}; nothing was written")
    return changes, missing


def _counted(plan: Mapping[str, Mapping[str, Stored]], rounding: Rounding, tick: Tick) -> Plan:
    """The tensors in their types, telling `tick` when one is read."""
    total, done = sum(map(len, plan.values())), count(1)

    def counting(x: Stored) -> Stored:
        def told(data: Any, last: bool = True) -> Any:
            if last:
                tick(min(next(done), total), total)
            return data

        part = x.part
        if part is None:
            return Stored(x.dtype, x.shape, lambda: told(x.raw()))
        return Stored(x.dtype, x.shape, lambda: told(x.raw()), lambda a, b: told(part(a, b), b == x.nbytes))

    return {file: {key: counting(typed(x, rounding)) for key, x in held.items()} for file, held in plan.items()}


def _write_folder(
    base: Model,
    output: Path,
    plan: Plan,
    *,
    untouched: set[str],
    same: bool,
    vocabulary: Mapping[str, EncoderVocabulary],
    configs: Mapping[str, Any],
    tokenizers: Mapping[str, Path],
    note: Note,
) -> None:
    """Weights, configs and tokenizers; `untouched` are files of the source whose bytes are right as they are."""
    with replacing_folder(output, note) as partial:
        if same:
            shutil.copytree(
                check_plain(base.path, "model"), partial, dirs_exist_ok=True, ignore=_ignored(base, untouched)
            )
        for path, config in configs.items():
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            (partial / path).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8", newline="\n")
        for part, source in tokenizers.items():
            (partial / tokenizer_of(part)).mkdir(exist_ok=True)
            for name in TOKENIZER_FILES:
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
            add_tokens(partial, part, added)


def _write_file(output: Path, tensors: Mapping[str, Stored], notes: Mapping[str, str]) -> None:
    if output.suffix.lower() == ".ckpt":
        ckpt.write(output, tensors, notes)
    else:
        safetensors.write(output, tensors, {"format": "pt", **notes}, hashed=False)


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
