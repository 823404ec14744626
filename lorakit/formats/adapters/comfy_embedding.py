"""SDXL's textual inversion, `clip_l` and `clip_g`: ComfyUI, A1111, OneTrainer, diffusers' pivotal tuning."""

from __future__ import annotations

from collections.abc import Mapping

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.families import Shape
from lorakit.formats.adapters import _marks
from lorakit.formats.adapters._vectors import Tokens, named

_PARTS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}


def matches(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> bool:
    return _marks.is_first("comfy-embedding", shapes, metadata)


def decode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    tokens = Tokens()
    token = named(metadata, tokens)
    for key, array in tensors.items():
        if key in _PARTS:
            tokens.add(token, key, array, _PARTS[key])
        else:
            tokens.unknown[key] = array
    return tokens.adapter(metadata, "comfy-embedding")
