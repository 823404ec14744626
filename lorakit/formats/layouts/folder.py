"""The diffusers layout: a folder for each part of the model, named as the modules of diffusers and transformers are."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from lorakit.errors import InputError
from lorakit.formats.layouts.place import KeyRule
from lorakit.targets import canonical

PARTS = ("unet", "text_encoder", "text_encoder_2", "vae")
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}
SUFFIXES = (".safetensors", ".bin")
_OLD_ATTENTION = re.compile(r"(.*\.mid_block\.attentions\.0)\.(query|key|value|proj_attn)\.(weight|bias)")
_NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def files(folder: Path) -> dict[str, list[Path]]:
    """Part to the files of its weights; of several variants the whole one in full precision."""
    found, empty = {}, list[str]()
    for part in PARTS:
        if not (folder / part).is_dir():
            continue
        if choice := weights_in(folder / part):
            found[part] = choice
        else:
            empty.append(part)
    if empty:
        raise InputError(f"{folder}: no weights ({' or '.join(f'*{s}' for s in SUFFIXES)}) in its {', '.join(empty)}")
    if not found:
        raise InputError(f"{folder}: no diffusers model: it has no folder {', '.join(PARTS)}")
    return found


def weights_in(folder: Path) -> list[Path]:
    """The files of one part's weights; none where there are none."""
    here = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and "non_ema" not in path.name)
    choices = (
        [path for path in here if path.suffix == ".safetensors" and "fp16" not in path.name],
        [path for path in here if path.suffix == ".safetensors"],
        [path for path in here if path.suffix == ".bin" and "fp16" not in path.name],
        here,
    )
    return next((choice for choice in choices if choice), [])


def found(part: str, keys: Collection[str]) -> list[KeyRule]:
    """The rules of a part's keys: their own names, in our spelling."""
    return [KeyRule(ours=_ours(part, key), key=key) for key in keys if not key.endswith("position_ids")]


def wanted(names: Collection[str]) -> dict[str, list[KeyRule]]:
    """Part to the rules by which these parameters are spelled in its folder."""
    rules: dict[str, list[KeyRule]] = {}
    for name in names:
        part, _, key = name.partition(".")
        rules.setdefault(part, []).append(KeyRule(ours=name, key=key))
    return rules


def _ours(part: str, key: str) -> str:
    if part == "vae" and (match := _OLD_ATTENTION.fullmatch(key)):
        return f"vae.{match[1]}.{_NEW_ATTENTION[match[2]]}.{match[3]}"
    return canonical(f"{part}.{key}")
