"""Textual inversion by text encoder, `clip_l` and `clip_g` (SD 2: `clip_h`): ComfyUI, A1111, OneTrainer, diffusers' pivotal
tuning; clients name the token by the file."""

from __future__ import annotations

from collections.abc import Mapping

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.families import Shape
from lorakit.formats.adapters import _marks
from lorakit.formats.codec import Context, Encoded
from lorakit.formats.peft_config import STALE
from lorakit.formats.vectors import Tokens, named, one_token

_PARTS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2", "clip_h": "text_encoder"}
_KEYS = {("text_encoder", 1024): "clip_h", ("text_encoder_2", 1280): "clip_g"}  # by ComfyUI's name of the text encoder


def matches(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> bool:
    return _marks.is_first("comfy-embedding", shapes, metadata)


def decode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    tokens = Tokens()
    token = named(metadata, tokens)
    for key, array in tensors.items():
        if key in _PARTS:
            tokens.add(token, key, array, _PARTS[key])
        elif key == "t5xxl":
            tokens.faults.append(f"{key}: vectors of a T5 text encoder, which lorakit does not read")
        elif key.removesuffix("_out") in _PARTS:
            tokens.faults.append(f"{key}: an output embedding of OneTrainer, which lorakit does not read")
        else:
            tokens.unknown[key] = array
    return tokens.adapter(metadata, "comfy-embedding")


def encode(adapter: Adapter, context: Context) -> Encoded:
    """One token, a tensor for each text encoder."""
    token, vectors, losses = one_token(adapter, "ComfyUI embedding")
    metadata = {key: value for key, value in adapter.metadata.items() if key not in STALE}
    return Encoded(by_text(vectors), {**metadata, "name": token} if token else metadata, tuple(losses))


def by_text(vectors: Mapping[str, Array]) -> dict[str, Array]:
    """A token's vectors by ComfyUI's names of the text encoders."""
    return {
        _KEYS.get((part, int(x.shape[-1])), "clip_g" if part == "text_encoder_2" else "clip_l"): x
        for part, x in vectors.items()
    }
