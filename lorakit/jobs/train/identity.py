"""What makes two runs the same one, and the notes that say so in checkpoints and outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorakit import __version__
from lorakit.config import TrainConfig
from lorakit.data.dataset import Example
from lorakit.errors import some
from lorakit.fields import option
from lorakit.io.inputs import sha256_of
from lorakit.io.plain import json_object
from lorakit.io.toml import text_of
from lorakit.naming import shown, spelled

CONFIG, SOURCES, DATA, ITEMS, BASE, PROCESS, RUN, PROCESSES = (
    f"lorakit.{key}" for key in ("config", "sources", "data", "data_items", "base", "process", "run", "processes")
)
_BASES = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}  # as kohya calls them


def data_hash(examples: Sequence[Example], digests: Sequence[str], classes: int = 0) -> str:
    """Of all that is read of a set: bytes of the pictures (`digests`, sha256 of each) and of their masks, names, captions,
    repeats; independent of where the folder lies. The last `classes` of the pictures are class pictures."""
    whole = hashlib.sha256()
    for example, digest in zip(examples, digests, strict=True):
        whole.update(digest.encode())
        whole.update(f"{shown(example.file.name)}\0{example.caption}\0{example.repeats}\n".encode())
        for more in (*example.captions[1:], *_mask(example)):
            whole.update(f"\0{more}\n".encode())
    if classes:
        whole.update(f"{classes} class pictures\n".encode())
    return whole.hexdigest()


def _mask(example: Example) -> list[str]:
    return [] if example.mask is None else [sha256_of(example.mask)]


_WHAT = ("pictures", "captions", "masks", "repeats")


def items(folder: Path, examples: Sequence[Example], digests: Sequence[str], kind: str = "") -> dict[str, list[str]]:
    """Short hashes by picture of what `data_hash` is made of, so that a run that differs can say where; see `_WHAT`."""
    found = {}
    for example, digest in zip(examples, digests, strict=True):
        inside = example.file.is_relative_to(folder)
        name = example.file.relative_to(folder).as_posix() if inside else example.file.name
        captions = hashlib.sha256("\n".join(example.captions).encode()).hexdigest()
        masks = "".join(_mask(example))[:16]
        found[f"{kind}{shown(name)}"] = [digest[:16], captions[:16], masks, str(example.repeats)]
    return found


def notes_of(
    config: TrainConfig,
    sources: Mapping[str, str],
    data: str,
    *,
    base: str,
    family: str | None,
    process: str,
    processes: int = 1,
) -> dict[str, str]:
    """Metadata that every file of the run carries; `ss_*` is what kohya's tools look for.

    process   the model's diffusion process, in words
    """
    text = json.dumps(spelled(config.values()), sort_keys=True)
    several = {PROCESSES: str(processes)} if processes > 1 else {}
    same = "\0".join([text, data, base, process, __version__, *several.values()])
    return several | {
        CONFIG: text,
        SOURCES: json.dumps({name: sources.get(name, "default") for name in config.values()}, sort_keys=True),
        DATA: data,
        BASE: base,
        PROCESS: process,
        RUN: hashlib.sha256(same.encode()).hexdigest()[:16],
        "ss_base_model_version": _BASES.get(family or "", f"lorakit_{family or 'model'}"),
        "ss_sd_model_name": Path(config.model).name,
        "ss_sd_model_hash": base,
        "ss_network_dim": str(config.rank),
        "ss_network_alpha": f"{config.alpha:g}",
        "ss_learning_rate": f"{config.lr:g}",
        "ss_optimizer": config.optimizer,
        "ss_lr_scheduler": config.lr_schedule,
        "ss_seed": str(config.seed),
        "ss_max_train_steps": str(config.total),
        "ss_batch_size_per_device": str(config.batch_size),
        "ss_gradient_accumulation_steps": str(config.accumulate),
        "ss_max_grad_norm": f"{config.max_grad_norm:g}",
        "ss_min_snr_gamma": f"{config.min_snr:g}",
    }


def differences(mine: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """What another run had otherwise, a line each: `--lr is 0.1, was 0.2`; empty where it is the same run."""
    if mine[RUN] == theirs.get(RUN):
        return []
    new, old = json.loads(mine[CONFIG]), _config(theirs)
    names = [name for name in {**new, **old} if new.get(name) != old.get(name)]
    lines = [f"{option(name)} is {_said(new.get(name))}, was {_said(old.get(name))}" for name in names]
    now, then = mine.get(PROCESSES, "1"), theirs.get(PROCESSES, "1")
    if now != then:
        lines.append(f"the number of processes, each with its batch, is {now}, was {then}")
    if mine[DATA] != theirs.get(DATA):
        lines += _changed(mine, theirs) or ["pictures, captions, masks or repeats have changed"]
    if mine[BASE] != theirs.get(BASE):
        lines.append("the base model's weights have changed")
    if mine[PROCESS] != theirs.get(PROCESS, mine[PROCESS]):
        lines.append(f"the base model {mine[PROCESS]}; before, it was one that {theirs[PROCESS]}")
    return lines or [f"it was made by another lorakit than {__version__}"]


def _changed(mine: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """What of the set is otherwise, a line each kind; empty where one of the two does not tell."""
    try:
        new, old = (json_object(notes[ITEMS]) for notes in (mine, theirs))
        kinds = {what: [n for n in new if n in old and new[n][i] != old[n][i]] for i, what in enumerate(_WHAT)}
    except (KeyError, ValueError, LookupError, TypeError):
        return []
    lines = [f"{what} have changed: {some(names, 3)}" for what, names in kinds.items() if names]
    come, gone = [n for n in new if n not in old], [n for n in old if n not in new]
    lines += [f"pictures are new: {some(come, 3)}"] * bool(come)
    return lines + [f"pictures are gone: {some(gone, 3)}"] * bool(gone)


def _config(notes: Mapping[str, str]) -> dict[str, Any]:
    try:
        return json_object(notes.get(CONFIG, "{}"))
    except ValueError:
        return {}


def _said(value: Any) -> str:
    return "not set" if value is None or value in ("", []) else str(value)


def toml(config: TrainConfig, sources: Mapping[str, str], extra: Mapping[str, Any]) -> str:
    """The resolved config, each value with where it came from; `train --config` reads it."""
    lines = ["[train]"]
    values: dict[str, Any] = {**extra, **config.values()}
    for name, value in values.items():
        if value is None or value == []:
            continue
        written = text_of(spelled(value))
        lines.append(f"{name.replace('_', '-')} = {written}  # {sources.get(name, 'default')}")
    return "\n".join(lines) + "\n"
