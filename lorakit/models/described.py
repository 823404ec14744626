"""What a model is, from its configs alone: no torch, no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit import process_config
from lorakit.errors import InputError
from lorakit.formats import foreign
from lorakit.io.plain import read_json
from lorakit.models.claims import check_described
from lorakit.models.places import check_name, folder_of, is_checkpoint
from lorakit.process_config import NOTHING, SCHEDULER, Overrides
from lorakit.talk import Note, silent


@dataclass(frozen=True)
class Described:
    """A model before its weights are read: the folder or file, and each config by its path in a folder.

    kind    of a single file ("sd1", "sd2", "sdxl"), None of a folder
    """

    place: Path
    configs: dict[str, dict[str, Any]]
    kind: str | None = None

    @property
    def size(self) -> int:
        """The side in pixels that the model was made for."""
        return int(self.configs["unet/config.json"]["sample_size"]) * self._factor

    @property
    def multiple(self) -> int:
        """Sides of pictures are multiples of this many pixels."""
        return self._factor * 2 ** (len(self.configs["unet/config.json"]["block_out_channels"]) - 1)

    @property
    def _factor(self) -> int:
        return int(2 ** (len(self.configs["vae/config.json"]["block_out_channels"]) - 1))


_CONFIGS = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "text_encoder_2/config.json",
    SCHEDULER,
)


_NEEDED = (_CONFIGS[1], _CONFIGS[2], _CONFIGS[3], _CONFIGS[5])


def described(name: str, note: Note = silent, wanted: Overrides = NOTHING) -> Described:
    """What a model is, from the configs of its folder or, of a single file, from its shapes by tables of ours, and from
    what it says of its process; one note tells that, and what the user says instead (`wanted`).

    raises  InputError, with its name, for a model that lorakit does not know or has no use for
    """
    check_name(name)
    if is_checkpoint(name):
        from lorakit.formats.layouts import SINGLE, open_model
        from lorakit.formats.layouts.describe import architecture, configs_of
        from lorakit.models.probe import ask

        model = open_model(name)
        if model.layout == SINGLE:
            foreign.check_kindred(model.tensors.keys(), name)
        place, configs, kind = Path(name), configs_of(model, wanted, note, ask), architecture(model)[1]
        foreign.check_parts(configs, place)
        _check_whole(configs, place, "")
    else:
        place, kind = folder_of(name), None
        pipeline = foreign.check_index(place)
        configs = {path: read_json(place / path, "config") for path in _CONFIGS if (place / path).is_file()}
        foreign.check_parts(configs, place)
        _check_whole(configs, place, pipeline)
        own = configs[SCHEDULER]
        where = f"{SCHEDULER}: {str(own.get('_class_name', 'no class'))[:80]}"
        # Of the built-in model nobody asks what it predicts, unless they say something else of it.
        told = (silent) if name == "tiny" and wanted == NOTHING else note
        configs[SCHEDULER] = process_config.settled(own, where, wanted, name, pipeline, told)
    check_described(configs, place)
    return Described(place, configs, kind)


def _check_whole(configs: Mapping[str, Any], place: Path, pipeline: str) -> None:
    missing = [path.partition("/")[0] for path in _NEEDED if path not in configs]
    if missing:
        whose = "" if not pipeline or "StableDiffusion" in pipeline else f" (its index says {pipeline})"
        raise InputError(f"{place} is not a whole Stable Diffusion model{whose}: it has no {', '.join(missing)}")


def native_size(name: str) -> tuple[int, int]:
    """(side in pixels, multiple) of a model, read from its configs alone: no torch, no weights."""
    model = described(name)
    return model.size, model.multiple
