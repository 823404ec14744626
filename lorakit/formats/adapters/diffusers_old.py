"""diffusers' former spellings: `attn1.processor.to_q_lora.down.weight`, `to_q.lora.down.weight`, `lora_linear_layer`.

Some of its savers mixed them with today's in one file; all of it is read.
"""

from __future__ import annotations

from collections.abc import Mapping

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.families import Shape
from lorakit.formats.adapters import _marks, diffusers


def matches(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> bool:
    return _marks.is_first("diffusers-old", shapes, metadata)


def decode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    return diffusers.read(tensors, metadata, "diffusers-old")
