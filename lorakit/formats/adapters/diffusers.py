"""diffusers' own: `unet.<path>.lora_A.weight` and `lora_B.weight`, the scale 1 or in `lora_adapter_metadata`."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.families import Shape
from lorakit.formats.adapters import _marks
from lorakit.formats.codec import Context, Encoded
from lorakit.formats.dotted import KeyReading
from lorakit.formats.factors import Factors, factors
from lorakit.formats.peft_config import STALE, PeftConfig, settings
from lorakit.formats.scaling import reshaped
from lorakit.spellings import OPAQUE, parse
from lorakit.targets import PARTS

SETTINGS = "lora_adapter_metadata"
DORA = "output"


def matches(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> bool:
    return _marks.is_first("diffusers", shapes, metadata)


def decode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    return read(tensors, metadata, "diffusers")


def read(tensors: Mapping[str, Array], metadata: Mapping[str, str], name: str) -> Adapter:
    """A file of diffusers, whatever its age."""
    reading = KeyReading()
    configs = _settings(metadata, reading)
    for key, array in tensors.items():
        reading.add(parse(key), array)
    return reading.adapter(configs.get, metadata, name)


def _settings(metadata: Mapping[str, str], reading: KeyReading) -> dict[str, PeftConfig]:
    """By part. diffusers writes them with the part before each name, or without where there is but one part."""
    if SETTINGS not in metadata:
        return {}
    try:
        whole = PeftConfig.read(metadata[SETTINGS], SETTINGS)
    except ValueError as error:
        reading.faults.append(str(error))
        return {}
    by_part: dict[str, dict[str, Any]] = {}
    for key, value in whole.values.items():
        part, dot, field = key.partition(".")
        for each in (part,) if dot else (*PARTS, *OPAQUE):
            by_part.setdefault(each, {})[field if dot else key] = value
    configs = {part: PeftConfig(values, SETTINGS) for part, values in by_part.items()}
    reading.faults += dict.fromkeys(line for config in configs.values() for line in config.faults())
    reading.notes += dict.fromkeys(line for config in configs.values() for line in config.notes())
    return configs


ENDINGS = ("lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_magnitude_vector", "lora_magnitude_vector.weight")


def stems_of(adapter: Adapter, context: Context) -> Callable[[str], Collection[str]]:
    """The names that a file of it may have today for a module of ours."""
    return lambda module: {module}


def encode(adapter: Adapter, context: Context) -> Encoded:
    """lora_A and lora_B for every module, whatever it is: diffusers drops attention from files of mixed spellings.

    Where ranks differ the settings are written as well, for clients before diffusers' pull request 14409, which without
    them give every module the commonest rank as its alpha.
    """
    parts, losses = factors(adapter, context, (*PARTS, *OPAQUE), "diffusers")
    tensors: dict[str, Array] = {}
    for part, by_path in parts.items():
        for path, one in by_path.items():
            tensors[f"{part}.{path}.lora_A.weight"], tensors[f"{part}.{path}.lora_B.weight"] = one.down, one.up
            if one.magnitude is not None:
                tensors[f"{part}.{path}.lora_magnitude_vector.weight"] = as_peft(one)
    metadata = {key: value for key, value in adapter.metadata.items() if key not in STALE}
    metadata["format"] = "pt"
    if any(len({one.rank for one in by_path.values()}) > 1 for by_path in parts.values()):
        metadata[SETTINGS] = _written(parts)
    return Encoded(tensors, metadata, tuple(losses))


def as_peft(one: Factors) -> Array:
    """PEFT's magnitude of a convolution is [1, out, 1, 1], of a linear module [out]."""
    assert one.magnitude is not None
    return one.magnitude if one.down.ndim == 2 else reshaped(one.magnitude, (1, one.up.shape[0], 1, 1))


def _written(parts: Mapping[str, Mapping[str, Factors]]) -> str:
    fields: dict[str, Any] = {}
    for part, by_path in parts.items():
        dora = any(one.magnitude is not None for one in by_path.values())
        ranks = {path: one.rank for path, one in by_path.items()}
        fields |= {f"{part}.{key}": value for key, value in settings(ranks, dora).items()}
    return json.dumps(fields, sort_keys=True)
