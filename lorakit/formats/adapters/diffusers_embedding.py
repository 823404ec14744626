"""diffusers' textual inversion: a tensor by its token's name; and its pivotal tuning, `text_encoders_0` and `_1`.

For two text encoders its scripts write `clip_l` and `clip_g`, which are read as ComfyUI's.
"""

from __future__ import annotations

from collections.abc import Mapping

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.families import Shape
from lorakit.formats.adapters import _marks
from lorakit.formats.adapters.comfy_embedding import by_text
from lorakit.formats.codec import Context, Encoded, rows_of
from lorakit.formats.peft_config import STALE
from lorakit.formats.vectors import Tokens, as_rows, one_token

_PIVOTAL = {"text_encoders_0": "text_encoder", "text_encoders_1": "text_encoder_2"}


def matches(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> bool:
    return _marks.is_first("diffusers-embedding", shapes, metadata)


def decode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    tokens = Tokens()
    for key, array in tensors.items():
        if key not in _PIVOTAL:
            tokens.add(key, key, array)
            continue
        rows = as_rows(array)  # a row a token there, not a token of several vectors
        for i, row in enumerate(rows_of(rows, max(1, rows.shape[0])) or ()):
            tokens.add(f"<s{i}>", key, row, _PIVOTAL[key])
    if any(key in _PIVOTAL for key in tensors):
        tokens.notes.append("its tokens are called <s0>, <s1> ... here, as diffusers' pivotal tuning calls them")
    return tokens.adapter(metadata, "diffusers-embedding")


def encode(adapter: Adapter, context: Context) -> Encoded:
    """One token. For two text encoders it is what diffusers' SDXL scripts write, clip_l and clip_g, which are loaded one by
    one: no file of its own is for both."""
    token, vectors, losses = one_token(adapter, "diffusers embedding")
    metadata = {key: value for key, value in adapter.metadata.items() if key not in STALE} | {"format": "pt"}
    if len(vectors) > 1:
        return Encoded(by_text(vectors), {**metadata, "name": token}, tuple(losses))
    array = next(iter(vectors.values()), None)
    return Encoded({} if array is None else {token: array}, metadata, tuple(losses))
