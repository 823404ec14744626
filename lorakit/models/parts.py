"""The parts of a model made from their configs and a file's tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lorakit.arrays import Stored
from lorakit.errors import some
from lorakit.formats.layouts import Model
from lorakit.models.claims import check_config
from lorakit.runtime.extras import faults_of_file
from lorakit.talk import Note, silent
from lorakit.targets import canonical


def quiet_libraries() -> None:
    """Warnings and bars of the libraries would mix with ours."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


TEXTS = ("text_encoder", "text_encoder_2")


def part_of(
    part: str,
    place: Path,
    configs: Mapping[str, Any],
    *,
    arrays: Mapping[str, Stored],
    device: torch.device,
    dtype: torch.dtype,
    note: Note,
) -> nn.Module:
    """One part of the model from its config and the file's tensors; nothing is allocated twice."""
    config = configs[f"{part}/config.json"]
    if part == "vae" and config.get("force_upcast") and dtype == torch.float16:
        dtype = torch.float32  # it overflows in float16
    begin = f"{part}."
    held = {name for name in arrays if name.startswith(begin)}
    check_config(config, (arrays[name].shape for name in held), place / part / "config.json")
    module = _empty(part, config, place / part / "config.json")
    tensors: dict[str, torch.Tensor] = {}
    missing = []
    for key, parameter in module.state_dict().items():
        name = canonical(f"{part}.{key}")
        if name not in held:
            missing.append(name)
            continue
        held.remove(name)
        if (shape := tuple(arrays[name].shape)) != (said := tuple(parameter.shape)):
            raise ValueError(f"{name} has the shape {list(shape)}, and by its config {list(said)}")
        tensor = arrays[name].tensor()
        tensors[key] = tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)
    if missing:
        raise ValueError(f"it has no {some(missing, 3)}")
    if held:
        note(f"{place}: {len(held)} tensors are no parameters of its {part}, first {min(held)}")
    module.load_state_dict(tensors, assign=True)
    for name, buffer in list(module.named_buffers()):
        if buffer.is_meta:  # positions of a text encoder: no file holds them
            owner, _, last = name.rpartition(".")
            setattr(module.get_submodule(owner), last, torch.arange(buffer.shape[-1], device=device).expand(1, -1))
    return module.eval().requires_grad_(False)


def unet_of(model: Model, configs: Mapping[str, Any]) -> Any:
    """The UNet of a file alone, in float32 on the CPU."""
    quiet_libraries()
    with faults_of_file(f"{model.path} is not a whole Stable Diffusion model"):
        return part_of(
            "unet",
            model.path,
            configs,
            arrays=model.arrays,
            device=torch.device("cpu"),
            dtype=torch.float32,
            note=silent,
        )


def part_with(part: str, config: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    """A part of a model made of these tensors, all of its parameters by name, to be written; nothing is copied."""
    module = _empty(part, config, f"the {part} to be written")
    module.load_state_dict(tensors, assign=True)
    return module


def _empty(part: str, config: dict[str, Any], where: Path | str) -> nn.Module:
    """The part with tensors that have a shape and no memory. InputError where the libraries cannot use the config."""
    with faults_of_file(str(where)), torch.device("meta"), _undrawn():
        return _of_config(part, config)


_DRAWING = {name: draw for name, draw in vars(nn.init).items() if name.endswith("_") and not name.startswith("_")}


@contextmanager
def _undrawn() -> Iterator[None]:
    """Modules draw no first weights: for those without memory it takes most of the time that they are made in."""
    for name in _DRAWING:
        setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        for name, draw in _DRAWING.items():
            setattr(nn.init, name, draw)


def _of_config(part: str, config: dict[str, Any]) -> nn.Module:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    if part in TEXTS:
        usual = "CLIPTextModelWithProjection" if part == "text_encoder_2" else "CLIPTextModel"
        projected = (config.get("architectures") or [usual])[0] == "CLIPTextModelWithProjection"
        kind = CLIPTextModelWithProjection if projected else CLIPTextModel
        return kind(CLIPTextConfig.from_dict(config))
    return (UNet2DConditionModel if part == "unet" else AutoencoderKL).from_config(config)
