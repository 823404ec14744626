"""diffusers' former spellings: `attn1.processor.to_q_lora.down.weight`, `to_q.lora.down.weight`, `lora_linear_layer`.

Some of its savers mixed them with today's in one file; all of it is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.families import Shape
from lorakit.formats.adapters import _marks, diffusers

_LORA = re.compile(r"(.*)\.to_(q|k|v|out)_lora\.(.+)")
_OUT = re.compile(r"(.*)\.to_out\.(lora|alpha|dora_scale)(.*)")


def matches(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> bool:
    return _marks.is_first("diffusers-old", shapes, metadata)


def decode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    return diffusers.read(tensors, metadata, "diffusers-old", _today)


def _today(key: str) -> str:
    """Today's spelling of a key, which the tables then have or not."""
    key = key.replace(".processor.", ".")
    if found := _LORA.fullmatch(key):
        module, name, ending = found.groups()
        if module.endswith(".self_attn"):  # a text encoder's attention
            return f"{module}.{name}_proj.lora.{ending}"
        return f"{module}.to_{'out.0' if name == 'out' else name}.lora.{ending}"
    if found := _OUT.fullmatch(key):
        module, mark, rest = found.groups()
        return f"{module}.to_out.0.{mark}{rest}"
    return key
