"""OneTrainer's OMI files: the original checkpoints' paths, dotted, behind `unet.`, `clip_l.` and `clip_g.`."""

from __future__ import annotations

from collections.abc import Mapping

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.families import Shape
from lorakit.formats import dotted as _dotted
from lorakit.formats.adapters import _marks


def matches(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> bool:
    return _marks.is_first("omi", shapes, metadata)


def decode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    return _dotted.read(tensors, metadata, "omi")
