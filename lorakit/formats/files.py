"""Adapters from paths: safetensors files, pickles with their sidecars, folders of PEFT and diffusers, embeddings in PNGs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.errors import InputError
from lorakit.families import Shape
from lorakit.formats import listed, triggers
from lorakit.formats.adapters import checked, cloneofsimo, decode
from lorakit.formats.vectors import UNNAMED
from lorakit.io import safetensors
from lorakit.io.inputs import open_to_read
from lorakit.io.plain import read_json, read_text

_PARTS = ("unet", "text_encoder", "text_encoder_2")
_CONFIG, _WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
_USUAL = "pytorch_lora_weights.safetensors"
Contents = tuple[dict[str, Array], dict[str, str]]


def read(path: Path, shapes: Mapping[str, Shape] | None = None) -> Adapter:
    """The adapter at a path, its tensors read when used; InputError that names every faulty or unknown key.

    shapes  of a model's modules, which name what no table names: numbered files, flattened names of other models
    """
    adapter = look(path)
    return checked(adapter if shapes is None else _by_model(adapter, shapes), str(path))


def _by_model(adapter: Adapter, shapes: Mapping[str, Shape]) -> Adapter:
    if adapter.format == "cloneofsimo":
        return cloneofsimo.named_by_model(adapter, shapes)
    flattened = {f"lora_{name.replace('.', '_')}": name for name in shapes}
    renamed = {name: flattened.get(name, name) for name in adapter.modules}
    return replace(
        adapter,
        modules={renamed[name]: delta for name, delta in adapter.modules.items()},
        keys={renamed.get(name, name): key for name, key in adapter.keys.items()},
    )


def look(path: Path) -> Adapter:
    """The same, faults and all: for those who want to know what a file is."""
    tensors, metadata = contents(path)
    adapter = named(decode(tensors, metadata, str(path)), path.stem)
    return replace(adapter, metadata={**triggers.beside(path), **adapter.metadata})


def named(adapter: Adapter, stem: str) -> Adapter:
    """A token that the file does not name is called as clients call it, by the file."""
    if set(adapter.embeddings) != {UNNAMED}:
        return adapter
    notes = tuple(note for note in adapter.notes if UNNAMED not in note)
    return replace(adapter, embeddings={stem: adapter.embeddings[UNNAMED]}, notes=notes)


def check(path: Path) -> None:
    """InputError where no adapter can be at `path`, told by its folder's names or its file's header alone."""
    from lorakit.io import pickles

    if path.is_dir():
        inside = [path / _CONFIG, path / _USUAL, *(path / part / _CONFIG for part in _PARTS)]
        if not any(file.is_file() for file in inside):
            raise _none(path)
    elif not (pickles.is_pickle(path, "adapter") or is_picture(path) or listed.is_list(path)):
        safetensors.open_file(path, "adapter")


def is_picture(path: Path) -> bool:
    """Whether the content is a PNG, whatever the name says: the webuis keep embeddings in them."""
    with os.fdopen(open_to_read(path, "adapter"), "rb") as file:
        return file.read(8) == b"\x89PNG\r\n\x1a\n"


def _none(folder: Path) -> InputError:
    return InputError(f"{folder}: no adapter in it (no {_CONFIG}, no {_USUAL})")


def notes_of_model(folder: Path) -> dict[str, str]:
    """What `lorakit train --mode full` noted in a model folder; empty where another program wrote it."""
    try:
        notes = read_json(folder / "lorakit.json", "notes of a model")
    except InputError:
        return {}
    return {key: value for key, value in notes.items() if isinstance(value, str)}


def contents(path: Path) -> Contents:
    """(tensors by key, metadata) of whatever file or folder an adapter comes as."""
    from lorakit.io import pickles

    if path.is_dir():
        return _folder(path)
    if path.is_file() and pickles.is_pickle(path):
        return _pickle(path)
    if path.is_file() and is_picture(path):
        from lorakit.formats import embedding_png  # reads pictures with Pillow, which other adapters need not

        return embedding_png.contents(path)
    if listed.is_list(path):
        return dict(listed.read(path)), {}
    file = safetensors.open_file(path, "adapter")
    metadata = dict(file.metadata)
    config = path.with_name(_CONFIG)
    if path.name == _WEIGHTS[0] and config.is_file():
        metadata["adapter_config"] = read_text(config, "PEFT's settings")
    return dict(file.items()), metadata


def _folder(folder: Path) -> Contents:
    """A PEFT folder, a folder of them by part, or a folder with diffusers' usual file name."""
    if (folder / _CONFIG).is_file():
        return _peft(folder, "")
    parts = [part for part in _PARTS if (folder / part / _CONFIG).is_file()]
    if parts:
        tensors: dict[str, Array] = {}
        metadata: dict[str, str] = {}
        for part in parts:
            more, notes = _peft(folder / part, f"{part}/")
            tensors, metadata = tensors | more, metadata | notes
        return tensors, metadata
    if (folder / _USUAL).is_file():
        return contents(folder / _USUAL)
    raise _none(folder)


def _peft(folder: Path, prefix: str) -> Contents:
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise InputError(f"{folder}: {_CONFIG} without {_WEIGHTS[0]}")
    tensors, metadata = contents(weights)
    metadata = {f"{prefix}{key}": value for key, value in metadata.items() if key != "adapter_config"}
    metadata[f"{prefix}adapter_config"] = read_text(folder / _CONFIG, "PEFT's settings")
    return {f"{prefix}{key}": x for key, x in tensors.items()}, metadata


def _pickle(path: Path) -> Contents:
    """A pickle's tensors; a list of cloneofsimo's takes its sidecars along: X.text_encoder.pt and X.ti.pt."""
    from lorakit.io import pickles

    tensors, metadata = pickles.state(pickles.read(path))
    if "0" in tensors:
        for prefix in ("text_encoder", "ti"):
            sidecar = path.with_name(f"{path.name.removesuffix(path.suffix)}.{prefix}{path.suffix}")
            if sidecar.is_file():
                more, _ = pickles.flatten(pickles.read(sidecar))
                tensors |= {f"{prefix}/{key}": x for key, x in more.items()}
    return tensors, metadata
