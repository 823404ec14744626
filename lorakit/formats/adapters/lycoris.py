"""LyCORIS' own library: `lycoris_<path with underscores>.<ending>`, whatever the model. SimpleTuner writes it."""

from __future__ import annotations

from collections.abc import Mapping

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.families import Shape
from lorakit.formats.adapters import _marks
from lorakit.formats.adapters._modules import Groups, build
from lorakit.targets import lycoris_names

PREFIX = "lycoris_"


def matches(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> bool:
    return _marks.is_first("lycoris", shapes, metadata)


def decode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    groups = Groups()
    for key, array in tensors.items():
        stem, dot, ending = key.partition(".")
        if dot and stem.startswith(PREFIX):
            groups.add(stem, ending, key, array)
        else:
            groups.unknown[key] = array
    return build(groups, lycoris_names().get, metadata, "lycoris")
