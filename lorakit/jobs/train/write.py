"""The result of a run, written whole, opened again, and compared with what is in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from lorakit.adapter import Adapter
from lorakit.arrays import Stored, on_host
from lorakit.delta import Delta, difference
from lorakit.deltas.full import Full
from lorakit.errors import LorakitError, NumericError, some
from lorakit.formats import clients, files, writing
from lorakit.formats.layouts import open_model
from lorakit.fusing import fuse
from lorakit.io.endings import TRAINED_MODEL
from lorakit.io.files import replacing_folder, write_text
from lorakit.io.inputs import check_plain
from lorakit.io.plain import read_json
from lorakit.io.record import RECORD
from lorakit.models.described import described
from lorakit.models.load import Components
from lorakit.models.parts import part_with
from lorakit.models.places import folder_of
from lorakit.naming import spelled
from lorakit.process_config import SCHEDULER
from lorakit.runtime.device import torch_dtype
from lorakit.talk import Note, Talk
from lorakit.targets import canonical

# What rounding to a number format may take of a delta, relative to its norm.
_ROUNDING = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}
# Which programs are to read a file of each format rightly, by the kind of all its modules.
_READERS: dict[str, dict[str, tuple[str, ...]]] = {
    "kohya": {"lora": ("diffusers", "sd-scripts", "a1111", "comfyui"), "dora": ("a1111", "comfyui")},
    "comfy": {"lora": ("comfyui",), "dora": ("comfyui",)},
    "diffusers": {"lora": ("diffusers",), "dora": ("diffusers",)},
}


def write_adapter(
    file: Path, adapter: Adapter, file_format: str, dtype: str, notes: Mapping[str, str], family: str | None
) -> list[clients.Coverage]:
    """Write, and read back; gives what each client makes of the file. LorakitError where a module that was trained is
    missing from it, differs, or is one that a client of the format would not apply."""
    writing.save(file, adapter.with_metadata(**notes), file_format, torch_dtype(dtype), family and [family])
    wrong = wrong_in(file, adapter, _ROUNDING[dtype])
    if wrong:
        raise LorakitError(
            f"{file} reads back otherwise than it was trained: {some(wrong, 5)}; this is a bug, report it"
        )
    found = {one.client: one for one in clients.coverages(files.read(file))}
    kinds = {delta.kind for delta in adapter.modules.values()}
    for client in _READERS.get(file_format, {}).get("".join(kinds), ()) if not adapter.embeddings else ():
        if lost := found[client].wrong:
            raise LorakitError(f"{client} would not apply {file} rightly: {some(sorted(lost), 5)}; this is a bug")
    return [*found.values()]


def check_adapter(
    file: Path, adapter: Adapter, file_format: str, dtype: str, notes: Mapping[str, str], family: str | None
) -> None:
    """Raise what `write_adapter` would raise before it writes."""
    writing.save(
        file, adapter.with_metadata(**notes), file_format, torch_dtype(dtype), family and [family], dry_run=True
    )


def check_effect(adapter: Adapter, idle: Sequence[str], unmoved: Sequence[str], source: str, note: Note) -> None:
    """NumericError where no module changes anything, or a token has learned nothing; some modules that do not are noted.

    idle      the modules that change nothing
    unmoved   the tokens whose vectors are those that they started from
    """
    if adapter.modules and len(idle) == len(adapter.modules):
        raise NumericError(
            f"{source}: the trained adapter has no effect, all of its {len(idle)} modules are 0; train longer or with a "
            "higher --lr"
        )
    if unmoved:
        raise NumericError(
            f"{source}: {', '.join(unmoved)} learned nothing: its vectors are those that it started from; train longer or "
            "with a higher --lr-token"
        )
    if idle:
        note(f"{len(idle)} of {len(adapter.modules)} modules learnt nothing: {some(idle, 5)}")


def wrong_in(file: Path, adapter: Adapter, tolerance: float) -> list[str]:
    """What of the adapter a reader of the file does not find as it is, a line each."""
    read = files.read(file)
    wrong = [f"{name} is missing" for name in adapter.modules if name not in read.modules]
    wrong += [f"{name} was not trained" for name in read.modules if name not in adapter.modules]
    for name in adapter.modules.keys() & read.modules.keys():
        error = adapter.modules[name].mapped(on_host).apart(read.modules[name].mapped(on_host))
        if not error <= tolerance:
            wrong.append(f"{name} differs by {error:.2g}")
    for token, by_part in adapter.embeddings.items():
        for part, rows in by_part.items():
            found = read.embeddings.get(token, {}).get(part)
            if found is None or not difference(on_host(rows), on_host(found)) <= tolerance:
                wrong.append(f"token {token} of {part} differs or is missing")
    return sorted(wrong)


def write_model(
    output: Path,
    changed: Mapping[str, Tensor],
    components: Components,
    *,
    dtype: str,
    notes: Mapping[str, str],
    note: Note,
    tokenizer: Path | None = None,
) -> None:
    """The whole model with the trained parts in it, all else as it is: a diffusers folder, or one file. Read back:
    LorakitError where a weight is missing or another than was trained."""
    if not all(tensor.isfinite().all() for tensor in changed.values()):
        raise NumericError(f"{output}: NaN or infinity in the trained weights; nothing was written")
    if TRAINED_MODEL.is_folder(output) and components.folder.is_dir():
        _write_folder(output, changed, components, dtype, notes, note)
    else:
        _write_other(output, changed, components, dtype=dtype, notes=notes, note=note, tokenizer=tokenizer)
    found = open_model(str(output), folder_of).arrays
    wrong = sorted(name for name, x in changed.items() if not _written(x, found.get(canonical(name)), dtype))
    if wrong:
        raise LorakitError(
            f"{output} reads back otherwise than it was trained: {some(wrong, 5)}; this is a bug, report it"
        )


def _written(x: Tensor, found: Stored | None, dtype: str) -> bool:
    """Whether it is what was found, but for a rounding, and of numbers near 0 the least that float16 can hold."""
    if found is None or found.shape != tuple(x.shape):
        return False
    mine = x.detach().cpu().to(torch_dtype(dtype)).float().numpy()
    error = float(np.linalg.norm((found.float() - mine).ravel()))
    return error <= _ROUNDING[dtype] * float(np.linalg.norm(mine.ravel())) + 6e-8 * mine.size**0.5


def _write_folder(
    output: Path,
    changed: Mapping[str, Tensor],
    components: Components,
    dtype: str,
    notes: Mapping[str, str],
    note: Note,
) -> None:
    parts = sorted({name.partition(".")[0] for name in changed})
    configs = described(str(components.folder)).configs
    with replacing_folder(output, note) as partial:
        left_out = shutil.ignore_patterns(*parts, "*.py", "__pycache__", "build", RECORD)
        shutil.copytree(check_plain(components.folder, "model"), partial, dirs_exist_ok=True, ignore=left_out)
        for part in parts:
            own = {n.removeprefix(f"{part}."): x for n, x in changed.items() if n.startswith(f"{part}.")}
            tensors = {name: x.detach().cpu().to(torch_dtype(dtype)) for name, x in own.items()}
            part_with(part, configs[f"{part}/config.json"], tensors).save_pretrained(partial / part)
        if components.scheduler_config != read_json(components.folder / SCHEDULER, "config"):
            write_text(partial / SCHEDULER, json.dumps(components.scheduler_config, indent=2) + "\n")
        write_text(partial / "lorakit.json", json.dumps(spelled(notes), indent=1))


def _write_other(
    output: Path,
    changed: Mapping[str, Tensor],
    components: Components,
    *,
    dtype: str,
    notes: Mapping[str, str],
    note: Note,
    tokenizer: Path | None,
) -> None:
    """By the way of a merge into a model: what each parameter has gained is added to it."""
    base = open_model(str(components.folder), folder_of)
    modules: dict[str, Delta] = {}
    biases = {}
    for key, x in changed.items():
        name = canonical(key)
        module, _, kind = name.rpartition(".")
        gained = x.detach().float().cpu().numpy() - base.arrays[name].float()
        if kind == "bias":
            biases[module] = gained
        else:
            modules[module] = Full(gained)
    fuse(
        Adapter(modules=modules, biases=biases),
        str(components.folder),
        output,
        dtype=dtype,
        force=True,
        metadata=notes,
        scheduler=components.scheduler_config,
        tokenizer=tokenizer,
        talk=Talk(note=note),
    )
