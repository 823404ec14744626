"""The run that `train` records in the metadata of its outputs, read for `train --config OUTPUT`.

A file comes from anyone, so what it records is checked as strictly as any configuration, and which of its options another
run takes over is marked where they are declared (`lorakit.config.Recorded`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.cli import settings
from lorakit.errors import UsageError

NOTES = "lorakit.json"  # in a model folder


@dataclass(frozen=True)
class RecordedRun:
    """What a file says of the run that made it.

    values    option, by its parameter's name, to the value it had; None where it was left open
    sources   option to where that value came from
    """

    file: Path
    values: dict[str, Any]
    sources: dict[str, str]


def is_recorded(file: Path) -> bool:
    """Whether a configuration is what `train` has recorded in its output, and not a file that someone wrote."""
    return file.suffix.lower() == ".safetensors" or file.name == NOTES or os.path.isdir(file)


def read(file: Path, parameters: Iterable[settings.Parameter]) -> RecordedRun:
    """Reads a file's record of its run, checked against the parameters of `train`.

    UsageError, with all faults, for a file without a record, unknown options and values of a wrong type.
    """
    known = {key.replace("-", "_"): parameter for key, parameter in settings.keys_of(parameters).items()}
    metadata = _metadata(file)
    values, faults = {}, []
    for name, value in {**_table(file, metadata, "config"), **_table(file, metadata, "options", "{}")}.items():
        if name not in known:
            faults.append(f"--config {file} records '{name}', which is no setting of train")
        elif value is not None and (wrong := settings.complaint(known[name], value)):
            faults.append(f"--config {file} records {name}: {wrong}")
        else:
            values[str(known[name].name)] = value
    sources = _table(file, metadata, "sources", "{}")
    if not all(isinstance(source, str) and source.isalpha() for source in sources.values()):
        faults.append(f"--config {file} records sources that are not words")
    settings.refuse(faults)
    return RecordedRun(file, values, sources)


def _metadata(file: Path) -> Mapping[str, Any]:
    if file.suffix.lower() == ".safetensors":
        from lorakit.io.safetensors import open_file

        return open_file(file, "adapter").metadata
    from lorakit.io.plain import read_bytes

    notes = file / NOTES if os.path.isdir(file) else file
    if not notes.exists():
        raise _without_config(file)
    return _json(notes, "its text", read_bytes(notes, "record of a run"))


def _table(file: Path, metadata: Mapping[str, Any], name: str, default: str | None = None) -> dict[str, Any]:
    text = metadata.get(f"lorakit.{name}", default)
    if text is None:
        raise _without_config(file)
    return _json(file, f"lorakit.{name} in its metadata", text)


def _json(file: Path, what: str, text: Any) -> dict[str, Any]:
    from lorakit.io.plain import json_object

    try:
        return json_object(text)
    except (ValueError, TypeError) as error:
        raise UsageError(f"--config {file}: {what} is not a table of options as lorakit writes it: {error}") from error


def _without_config(file: Path) -> UsageError:
    return UsageError(f"--config {file}: no config in its metadata; it was not trained by lorakit")
