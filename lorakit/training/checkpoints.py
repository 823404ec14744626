"""Where an interrupted run goes on: tensors without pickles, written whole, read back before older ones go."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lorakit.arrays import Array
from lorakit.errors import InputError, StorageError
from lorakit.io import safetensors
from lorakit.io import torch_files as files
from lorakit.io.files import remove
from lorakit.talk import Note

_STEP = "step"
_NAME = re.compile(r"step-(\d+)\.safetensors$")


@dataclass(frozen=True)
class Checkpoint:
    file: Path
    step: int
    tensors: dict[str, Tensor]
    notes: dict[str, str]


def _all(key: str, x: Tensor) -> Tensor:
    return x


Piece = Callable[[str, Tensor], Tensor]


def listed(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of the checkpoints in `folder`, oldest first."""
    found = [
        (int(match.group(1)), file) for file in folder.glob("step-*.safetensors") if (match := _NAME.search(file.name))
    ]
    return sorted(found)


def save(folder: Path, step: int, tensors: Mapping[str, Array], notes: Mapping[str, str], keep: int) -> Path:
    """Write the state after `step` steps; all but the newest `keep` go once the new one has been read back."""
    file = folder / f"step-{step:06d}.safetensors"
    # The step stands among the tensors too, whose hash is checked.
    state = {**tensors, _STEP: torch.tensor(step)}
    files.save(file, state, {**notes, "lorakit.checkpoint": "1", "lorakit.step": str(step)})
    if not whole(file):
        raise StorageError(f"{file} reads back otherwise than it was written; the checkpoints before it are kept")
    ours = [old for _, old in listed(folder) if _is_checkpoint(old)]
    for old in ours[:-keep]:
        remove(old)
    return file


def _is_checkpoint(file: Path) -> bool:
    with suppress(InputError):
        return "lorakit.checkpoint" in safetensors.open_file(file, "training checkpoint").metadata
    return False


def whole(file: Path) -> bool:
    """Whether the tensors of the file are those whose hash was written with them."""
    opened = safetensors.open_file(file, "training checkpoint")
    return opened.metadata.get("sshs_model_hash") == opened.data_hash()


def read(file: Path, piece: Piece = _all) -> Checkpoint:
    """InputError where it is no checkpoint, or damaged. Of each tensor, by its key, `piece` takes what is wanted."""
    opened = safetensors.open_file(file, "training checkpoint")
    notes = opened.metadata
    if "lorakit.checkpoint" not in notes:
        raise InputError(f"{file} is not a training checkpoint of lorakit")
    tensors = {key: piece(key, stored.tensor()) for key, stored in opened.items()}
    step = tensors.pop(_STEP, None)
    if step is None or step.numel() != 1 or not whole(file):
        raise InputError(f"{file} is damaged: its tensors are not those that were written")
    return Checkpoint(file, int(step), tensors, notes)


def newest(folder: Path, note: Note, piece: Piece = _all) -> Iterator[Checkpoint]:
    """The whole checkpoints of a folder, newest first; damaged ones are passed by, saying so."""
    for _, file in reversed(listed(folder)):
        try:
            yield read(file, piece)
        except InputError as error:
            note(f"passed by: {error}")
