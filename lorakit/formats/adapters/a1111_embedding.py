"""Textual inversion of A1111 (`string_to_param.*`) and kohya (`emb_params`); clients name the token by the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.families import Shape
from lorakit.formats.adapters import _marks
from lorakit.formats.codec import Context, Encoded
from lorakit.formats.peft_config import STALE
from lorakit.formats.vectors import Tokens, named, one_token

_A1111, _KOHYA = "string_to_param.", "emb_params"
_BOTH = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


def matches(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> bool:
    return _marks.is_first("a1111-embedding", shapes, metadata)


def decode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    tokens, token = Tokens(), ""
    for key, array in tensors.items():
        if key != _KOHYA and not key.startswith(_A1111):
            tokens.unknown[key] = array
            continue
        inner = key.removeprefix(_A1111).removeprefix("_parameters.")
        if inner in ("*", _KOHYA):  # A1111 calls every token `*`
            token = token or named(metadata, tokens)
            inner = token
        tokens.add(inner, key, array)
    return tokens.adapter(metadata, "a1111-embedding")


def encode(adapter: Adapter, context: Context) -> Encoded:
    """One token: `emb_params` for one text encoder, `clip_l` and `clip_g` where the second has vectors as well."""
    token, vectors, losses = one_token(adapter, "A1111 embedding")
    if set(vectors) == {"text_encoder"}:
        tensors = {_KOHYA: vectors["text_encoder"]}
    else:
        tensors = {_BOTH[part]: array for part, array in vectors.items()}
    metadata = {key: value for key, value in adapter.metadata.items() if key not in STALE}
    return Encoded(tensors, {**metadata, "name": token} if token else metadata, tuple(losses))


def pickled(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> dict[str, Any]:
    """What A1111 keeps in a .pt file, of what `encode` gives. A file for two text encoders holds the two tensors alone."""
    if _KOHYA not in tensors:
        return dict(tensors)
    return {
        "string_to_token": {"*": 265},  # the number of "*" in the tokenizer, as A1111 writes it
        "string_to_param": {"*": tensors[_KOHYA]},
        "name": metadata.get("name", ""),
        "step": None,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
    }
