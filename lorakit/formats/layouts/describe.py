"""What a base model is and what it says of itself: the configs that a diffusers folder would have of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lorakit import process_config
from lorakit.errors import InputError
from lorakit.families import Unet
from lorakit.formats import foreign
from lorakit.formats.layouts import marks
from lorakit.formats.layouts.architecture import configs, kind_of, scheduler, unet_of
from lorakit.io.plain import read_json
from lorakit.process_config import SCHEDULER
from lorakit.talk import Note

if TYPE_CHECKING:
    from lorakit.formats.layouts import Model

Ask = Callable[["Model"], tuple[str, str]]


def architecture(model: Model) -> tuple[Unet, str]:
    """The UNet's row and the kind, "sd1" and so on; InputError where it is none of Stable Diffusion's."""
    shapes = {name: x.shape for name, x in model.arrays.items()}
    try:
        unet = unet_of(shapes)
    except InputError as error:
        raise InputError(f"{model.path}: {error}") from None
    return unet, kind_of(unet, {name.partition(".")[0] for name in shapes})


def plain_configs(model: Model, prediction: str) -> marks.Configs:
    """Path in a diffusers folder to the config's content, of a model that says nothing but its prediction."""
    unet, kind = architecture(model)
    return configs(kind, unet, {name: x.shape for name, x in model.arrays.items()}, prediction)


def schedule_of(model: Model, ask: Ask | None = None) -> tuple[dict[str, Any], str] | None:
    """The scheduler's config that a model says, in its folder or by a file's marks, and where it says so.

    ask     gives what the model predicts, and how that is known, for a file of SD2 that does not say it; without it
            None is given for such a file
    """
    if model.is_folder:
        file = model.path / SCHEDULER
        if not file.is_file():
            return None
        config = read_json(file, "config")
        return config, f"{SCHEDULER}: {str(config.get('_class_name', 'no class'))[:80]}"
    found = marks.read(model.tensors.keys(), model.metadata, str(model.path))
    kind, channels = architecture(model)[1], model.arrays["unet.conv_in.weight"].shape[1]
    where = f"{found.where} in the file" if found.where and not found.edm else found.where
    where += f"; {found.clash} says otherwise and does not count" if found.clash else ""
    prediction = "epsilon"
    if found.prediction is None and not found.edm:
        if kind == "sd2" and channels == _PLAIN_CHANNELS:  # of this kind there are models of both
            if ask is None:
                return None
            prediction, where = ask(model)
        else:
            others = f" with {channels} input channels" if kind == "sd2" else ""
            where = f"{where}; " * bool(where) + f"as {kind.upper()}{others} does where the file says nothing else"
    return found.scheduler(scheduler(kind, prediction)), where


_PLAIN_CHANNELS = 4


def asking(wanted: process_config.Overrides, ask: Ask) -> Ask:
    """What to ask where the user may have said it already."""
    if wanted.prediction is None:
        return ask
    kind = "epsilon" if wanted.prediction == process_config.FLOW else wanted.prediction
    return lambda model: (kind, "the file does not say it")


def configs_of(model: Model, wanted: process_config.Overrides, note: Note, ask: Ask) -> marks.Configs:
    """Path in a diffusers folder to the config's content, of a single file. One note says what was found of its process.

    ask   see `schedule_of`; it is not asked where the user says it
    """
    found = schedule_of(model, asking(wanted, ask))
    assert found is not None  # a single file's
    config = process_config.settled(*found, wanted, str(model.path), pipeline_of(model), note)
    # What a UNet was made for goes by what it predicts: SD2's for v are of 768 pixels.
    made = configs_told(model, plain_configs(model, process_config.prediction_of(config)))
    made["model_index.json"]["scheduler"] = ["diffusers", config["_class_name"]]
    return {**made, SCHEDULER: config}


def configs_told(model: Model, plain: marks.Configs) -> marks.Configs:
    """The configs of a folder; of a single file those of one that says nothing, with what this one says."""
    if not model.is_folder:
        return marks.with_own(plain, marks.read((), model.metadata, str(model.path)).own)
    return {path: read_json(file, "config") for path in plain if (file := model.path / path).is_file()}


def pipeline_of(model: Model) -> str:
    """The class that a model is for."""
    if model.is_folder:
        return foreign.check_index(model.path)
    return str(plain_configs(model, "epsilon")["model_index.json"]["_class_name"])
