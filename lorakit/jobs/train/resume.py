"""Where an interrupted run goes on, or why it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lorakit.errors import InputError, RefusedError
from lorakit.io.files import write_text
from lorakit.io.plain import json_object, read_lines
from lorakit.jobs.train.identity import differences
from lorakit.jobs.train.run_options import RunOptions
from lorakit.talk import Note
from lorakit.training import checkpoints
from lorakit.training.checkpoints import Checkpoint


def resumed(life: RunOptions, notes: dict[str, str], note: Note, piece: checkpoints.Piece) -> Checkpoint | None:
    """The checkpoint to go on from; None where the run begins.

    Of its tensors `piece` takes what this process holds. `auto` takes the newest whole one of the same run. An unfinished
    run of another config, other data or another base is refused with the differences, and with --force begun anew.
    """
    if life.resume == "never":
        return None
    if life.resume != "auto":
        return _asked(Path(life.resume), notes, note, piece)
    for found in checkpoints.newest(life.run_folder / "checkpoints", note, piece):
        different = differences(notes, found.notes)
        if not different:
            return found
        if life.force or life.output.exists():
            note(f"{life.run_folder} is of another run ({different[0]}): starting anew")
            return None
        raise RefusedError(
            f"{life.run_folder} holds an unfinished run that differs: {'; '.join(different[:8])}\n"
            "give it the same config and data to go on, begin anew with --resume never, or choose another output"
        )
    return None


def _asked(path: Path, notes: dict[str, str], note: Note, piece: checkpoints.Piece) -> Checkpoint:
    if path.is_dir():
        inner = path / "checkpoints"
        found = next(checkpoints.newest(inner if inner.is_dir() else path, note, piece), None)
        if found is None:
            raise InputError(f"--resume {path}: no whole checkpoint there")
    else:
        found = checkpoints.read(path, piece)
    different = differences(notes, found.notes)
    if different:
        raise RefusedError(f"--resume {found.file} is of a run that differs: {'; '.join(different[:8])}")
    return found


def cleaned_log(file: Path, step: int) -> list[dict[str, Any]]:
    """The log's whole lines up to `step`; what came after is computed again."""
    rows = []
    if step and file.is_file():
        for _, line in read_lines(file, "log"):
            try:
                row = json_object(line)
                if int(row["step"]) <= step:
                    rows.append(row)
            except (ValueError, KeyError, TypeError):
                break
    write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
    return rows
