"""What a single file's base model is: the configs that a diffusers folder would have of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lorakit.errors import InputError
from lorakit.families import Unet
from lorakit.formats.layouts._architecture import configs, kind_of, unet_of

if TYPE_CHECKING:
    from lorakit.formats.layouts import Model


def architecture(model: Model) -> tuple[Unet, str]:
    """The UNet's row and the kind, "sd1" and so on; InputError where it is none of Stable Diffusion's."""
    shapes = {name: x.shape for name, x in model.arrays.items()}
    try:
        unet = unet_of(shapes)
    except InputError as error:
        raise InputError(f"{model.path}: {error}") from None
    return unet, kind_of(unet, {name.partition(".")[0] for name in shapes})


def configs_of(model: Model, note: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Path in a diffusers folder to the config's content; what has to be assumed is noted."""
    shapes = {name: x.shape for name, x in model.arrays.items()}
    unet, kind = architecture(model)
    said = model.metadata.get("modelspec.prediction_type", "")
    by_name = any(key in ("v_pred", "model.v_pred") for _, key in model.leftovers())
    velocity = said.startswith("v") or by_name or (kind == "sd2" and not said)
    if kind == "sd2" and not said:
        note("the file does not say what it predicts: v_prediction is assumed, as SD 2.1 of 768 pixels does")
    return configs(kind, unet, shapes, "v_prediction" if velocity else "epsilon")
