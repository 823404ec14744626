"""What a written model says of its diffusion process: a folder's configs, or the marks of a single file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lorakit.arrays import Stored
from lorakit.errors import UsageError
from lorakit.formats.layouts import UNET_FILE, Model, describe, marks
from lorakit.process_config import SCHEDULER, Overrides, prediction_of, settled, unknown
from lorakit.talk import Note


@dataclass(frozen=True)
class Said:
    """What is written otherwise than it stands in the model's own files.

    configs            of a folder, by their path
    tensors, metadata  the marks of a single file; None where the model's own go along as they are
    """

    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tensors: Mapping[str, Stored] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def marked(self, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
        """A single file's tensors with these marks in place of its own."""
        if self.tensors is None:
            return dict(tensors)
        return {key: x for key, x in tensors.items() if not marks.is_mark(key)} | dict(self.tensors)

    def noted(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """A single file's metadata, likewise."""
        if self.tensors is None:
            return dict(metadata)
        return {key: text for key, text in metadata.items() if key not in marks.TEXTS} | dict(self.metadata)


def said(
    base: Model,
    to_folder: bool,
    wanted: Overrides,
    scheduler: Mapping[str, Any] | None,
    note: Note,
    others: Mapping[str, Mapping[str, Any]],
) -> Said:
    """What is to be written of a model's process, in a folder or a single file.

    wanted     what the user says in place of what the model says
    scheduler  the scheduler's config, where it is known already
    others     configs of parts that are not the model's own, by their path
    raises     InputError for a process that lorakit does not know, where that would have to be written anew
    """
    if base.layout == UNET_FILE:
        if wanted:
            raise UsageError(f"{base.path} is a UNet alone, and only a whole model says what it predicts")
        return Said()
    if to_folder and not base.is_folder:
        from lorakit.models.probe import ask

        known = Overrides(prediction_of(scheduler)) if scheduler else wanted
        configs = describe.configs_of(base, known, note, ask)
        return Said({**configs, **others, SCHEDULER: scheduler or configs[SCHEDULER]})
    config, own = _settled(base, to_folder, wanted, note) if scheduler is None else (dict(scheduler), None)
    if config is None:
        return Said(others)
    if to_folder:
        return Said({**others, **({} if config == own else {SCHEDULER: config})})
    plain = describe.plain_configs(base, prediction_of(config))
    told = {**describe.configs_told(base, plain), **others}
    return Said({}, *marks.written(config, told, plain, base.metadata))


def _settled(
    base: Model, to_folder: bool, wanted: Overrides, note: Note
) -> tuple[dict[str, Any] | None, Mapping[str, Any] | None]:
    """The scheduler's config that is to be written, and the one that the model has; no config where the model says
    nothing, or something that lorakit does not know and that goes along as it is."""
    from lorakit.models.probe import ask

    found = describe.schedule_of(base, describe.asking(wanted, ask) if wanted else None)
    same = base.is_folder == to_folder
    if found is None or (same and not wanted and unknown(found[0])):
        if wanted:
            raise UsageError(f"{base.path} has no {SCHEDULER}, and what is said of its process has no place")
        return None, None
    return settled(*found, wanted, str(base.path), describe.pipeline_of(base), note), found[0]
