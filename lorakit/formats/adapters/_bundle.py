"""Learned tokens inside an adapter file, `bundle_emb.<token>.<which>`: A1111 and ComfyUI read them beside the deltas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lorakit.adapter import Adapter
from lorakit.arrays import Array

PREFIX = "bundle_emb."
_ENDINGS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
_A1111 = ".string_to_param."


def split(tensors: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """(the rest, the bundled embeddings), by key."""
    mine = {key: x for key, x in tensors.items() if key.startswith(PREFIX)}
    return {key: x for key, x in tensors.items() if key not in mine}, mine


def joined(adapter: Adapter, bundled: Mapping[str, Array]) -> Adapter:
    """The adapter with the bundled tokens; a key of another build is a fault."""
    embeddings: dict[str, dict[str, Array]] = {t: dict(by) for t, by in adapter.embeddings.items()}
    faults = list(adapter.faults)
    for key, array in bundled.items():
        rest = key.removeprefix(PREFIX)
        token, _, which = rest.rpartition(".")
        if _A1111 in rest:
            token, part = rest.partition(_A1111)[0], "text_encoder"
        elif token and which in _ENDINGS:
            part = _ENDINGS[which]
        else:
            faults.append(f"{key}: not a bundled embedding of a known build")
            continue
        if array.ndim not in (1, 2):
            faults.append(f"{key}: vectors have one or two dimensions, not {tuple(array.shape)}")
            continue
        embeddings.setdefault(token, {})[part] = array
    return replace(adapter, embeddings=embeddings, faults=tuple(faults))


def write(embeddings: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """The keys of bundled tokens: A1111's where one text encoder has them, else clip_l and clip_g."""
    tensors: dict[str, Array] = {}
    ending = {part: ending for ending, part in _ENDINGS.items()}
    for token, by_part in embeddings.items():
        for part, array in by_part.items():
            single = set(by_part) == {"text_encoder"}
            tensors[f"{PREFIX}{token}.string_to_param.*" if single else f"{PREFIX}{token}.{ending[part]}"] = array
    return tensors
