"""A base model on disk, as adapters need it: whether they fit it, and the weights that their deltas depend on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from lorakit.adapter import Adapter
from lorakit.arrays import Stored
from lorakit.errors import InputError, some
from lorakit.families import Shape
from lorakit.formats import bases


def check_fits(given: Sequence[tuple[Path, Adapter]], model: str, option: str) -> dict[str, Shape]:
    """The shapes of the modules of the model that `option` names; InputError where adapters are for another family. No
    weight is read."""
    from lorakit.formats.layouts import open_model
    from lorakit.models.places import folder_of

    shapes = {name: x.shape for name, x in open_model(model, folder_of).weights().items()}
    bases.check_fits(given, shapes, model, option)
    return shapes


def weights_of(model: str, names: Iterable[str], kind: str) -> dict[str, Stored]:
    """Module to its weight, read when it is used; the model is a folder, a single file, built in or on the hub.

    InputError names the modules that the model lacks; `kind` says of what they are.
    """
    from lorakit.formats.layouts import open_model
    from lorakit.models.places import folder_of

    arrays = open_model(model, folder_of).arrays
    wanted = sorted(names)
    missing = [name for name in wanted if f"{name}.weight" not in arrays]
    if missing:
        raise InputError(f"{model} has no weight for {some(missing, 5)}, which {kind} deltas depend on")
    return {name: arrays[f"{name}.weight"] for name in wanted}
