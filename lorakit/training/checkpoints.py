"""Where an interrupted run goes on: tensors without pickles, written whole, oldest removed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lorakit.errors import InputError
from lorakit.io import tensors as files

_NAME = re.compile(r"step-(\d+)\.safetensors$")


@dataclass(frozen=True)
class Checkpoint:
    file: Path
    step: int
    tensors: dict[str, Tensor]
    notes: dict[str, str]


def listed(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of the checkpoints in `folder`, oldest first."""
    found = [
        (int(match.group(1)), file) for file in folder.glob("step-*.safetensors") if (match := _NAME.search(file.name))
    ]
    return sorted(found)


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], notes: Mapping[str, str], keep: int) -> Path:
    file = folder / f"step-{step:06d}.safetensors"
    files.save(file, tensors, {**notes, "lorakit.checkpoint": "1", "lorakit.step": str(step)}, hashed=False)
    for _, old in listed(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return file


def read(file: Path) -> Checkpoint:
    tensors, notes = files.read(file, "training checkpoint")
    if "lorakit.checkpoint" not in notes:
        raise InputError(f"{file} is not a training checkpoint of lorakit")
    return Checkpoint(file, int(notes["lorakit.step"]), tensors, notes)
