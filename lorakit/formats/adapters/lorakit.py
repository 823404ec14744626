"""Our own training checkpoints: `parameter/<module>.down` and `.up` beside the optimizer's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.families import Shape
from lorakit.formats.adapters import _marks
from lorakit.formats.adapters._modules import Groups, build

_PARAMETER = "parameter/"
_FACTORS = {"down": "lora_down.weight", "up": "lora_up.weight"}


def matches(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> bool:
    return _marks.is_first("lorakit", shapes, metadata)


def decode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    """What `lorakit train` would write from it. The optimizer's state is not of the adapter."""
    groups, scale = Groups(), float(metadata.get("lorakit.scale", "nan"))
    for key, array in tensors.items():
        if not key.startswith(_PARAMETER):
            continue
        module, _, factor = key.removeprefix(_PARAMETER).rpartition(".")
        if factor in _FACTORS and array.ndim > 1:
            groups.add(module, _FACTORS[factor], key, array)
        else:
            groups.unknown[key] = array
    for found in groups.modules.values():
        if "lora_down.weight" in found:
            key, down = found["lora_down.weight"]
            found["alpha"] = (key, np.array(scale * down.shape[0]))
    if groups.modules:
        return build(groups, lambda module: module, metadata, "lorakit")
    adapter = Adapter({}, metadata, format="lorakit")
    return replace(adapter, faults=("lorakit.checkpoint: a checkpoint of full training, with no adapter in it",))
