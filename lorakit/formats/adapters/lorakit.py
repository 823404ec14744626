"""Our own files: `<module>.<ending>` by the names of the model's modules, every kind and alpha as it is; and training
checkpoints, `parameter/<module>.<name>` beside the optimizer's state.

A checkpoint's metadata says the variant, the scale of the deltas (and those that differ, by module), and how many
vectors each learned token has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np

from lorakit import deltas
from lorakit.adapter import Adapter
from lorakit.arrays import Array, floats
from lorakit.families import FAMILIES, Shape
from lorakit.formats.adapters import _bundle, _marks
from lorakit.formats.codec import Context, Encoded, Groups, build
from lorakit.io.plain import json_object
from lorakit.registry import DELTA_KINDS

FORMAT, _BIAS = "lorakit.format", "diff_b"
DORA = "output"
_PARAMETER, _FIXED, _TOKENS = "parameter/", "fixed/", "tokens."
_ITEMS = "lorakit.data_items"
_ENDINGS = {"down": "lora_down.weight", "up": "lora_up.weight", "magnitude": "dora_scale"}
_FULL = "lorakit.checkpoint: a checkpoint of full training, with no adapter in it"


def matches(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> bool:
    return _marks.is_first("lorakit", shapes, metadata)


def decode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    return _checkpoint(tensors, metadata) if "lorakit.checkpoint" in metadata else _file(tensors, metadata)


def encode(adapter: Adapter, context: Context) -> Encoded:
    """Nothing is folded, renamed or left out."""
    tensors: dict[str, Array] = {}
    for module, delta in adapter.modules.items():
        tensors |= {f"{module}.{ending}": array for ending, array in deltas.write(delta).items()}
    tensors |= {f"{module}.{_BIAS}": bias for module, bias in adapter.biases.items()}
    metadata = {**adapter.metadata, FORMAT: "1"}
    if context.family is not None and context.sure:
        metadata.setdefault("modelspec.architecture", f"{FAMILIES[context.family].architecture}/lora")
    return Encoded({**tensors, **_bundle.write(adapter.embeddings), **adapter.unknown}, metadata)


@cache
def _endings() -> tuple[str, ...]:
    """Of all kinds of delta, the longest first: `lora_down.weight` before `weight`."""
    found = {ending for name in DELTA_KINDS.names() for ending in DELTA_KINDS[name].SUFFIXES}
    return tuple(sorted(found | {_BIAS}, key=lambda ending: (-len(ending), ending)))


def _file(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    groups = Groups()
    for key, array in tensors.items():
        ending = next((one for one in _endings() if key.endswith(f".{one}")), None)
        if ending is None:
            groups.unknown[key] = array
        else:
            groups.add(key.removesuffix(f".{ending}"), ending, key, array)
    said = {key: value for key, value in metadata.items() if key != FORMAT}  # of this file, not of the adapter
    return build(groups, lambda module: module, said, "lorakit")


def _checkpoint(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    """What `lorakit train` would write from it. The optimizer's state is not of the adapter."""
    groups = Groups()
    head = {"loha": "hada_", "lokr": "lokr_"}.get(metadata.get("lorakit.variant", ""))
    for key, array in tensors.items():
        if not key.startswith(_PARAMETER) or key.startswith(_PARAMETER + _TOKENS):
            continue
        module, _, name = key.removeprefix(_PARAMETER).rpartition(".")
        ending = _ENDINGS.get(name) if head is None else f"{head}{name}"
        if ending is not None and array.ndim > 1:
            groups.add(module, ending, key, array)
        else:
            groups.unknown[key] = array
    scale, scales = _scale(metadata), _table(metadata, "lorakit.scales")
    said = {key: value for key, value in metadata.items() if key != _ITEMS}  # of the run's pictures, not of the adapter
    for module, found in groups.modules.items():
        _since_the_start(module, found, tensors)
        if (rank := _rank(found)) is not None:
            first = next(key for key, _ in found.values())
            found["alpha"] = (first, np.array(scales.get(module, scale) * rank))
    embeddings = _embeddings(tensors, _table(metadata, "lorakit.tokens"))
    if groups.modules or embeddings:
        return replace(build(groups, lambda module: module, said, "lorakit"), embeddings=embeddings)
    return replace(Adapter(modules={}, metadata=said, format="lorakit"), faults=(_FULL,))


def _table(metadata: Mapping[str, str], key: str) -> dict[str, float]:
    try:
        table = json_object(metadata.get(key, "{}"))
    except ValueError:
        return {}
    return {name: value for name, value in table.items() if isinstance(value, int | float)}


def _scale(metadata: Mapping[str, str]) -> float:
    try:
        return float(metadata.get("lorakit.scale", "nan"))
    except ValueError:
        return math.nan


def _rank(found: Mapping[str, tuple[str, Array]]) -> int | None:
    """Of the factors that the scale is by; None where the delta has no alpha, as a LoKr of whole matrices."""
    for ending in ("lora_down.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if ending in found:
            return int(found[ending][1].shape[0])
    return None


def _since_the_start(module: str, found: dict[str, tuple[str, Array]], tensors: Mapping[str, Array]) -> None:
    """Factors that did not start at a delta of 0 (PiSSA) with those they started from, subtracted, beside them."""
    firsts = [tensors.get(f"{_FIXED}{module}.{name}_at_first") for name in ("down", "up")]
    if firsts[0] is None or firsts[1] is None:
        return
    (down_key, down), (up_key, up) = found["lora_down.weight"], found["lora_up.weight"]
    values = [np.asarray(floats(x)) for x in (down, firsts[0], up, firsts[1])]
    found["lora_down.weight"] = (down_key, np.concatenate([values[0], -values[1]], 0))
    found["lora_up.weight"] = (up_key, np.concatenate(values[2:], 1))


def _embeddings(tensors: Mapping[str, Array], vectors: Mapping[str, float]) -> dict[str, dict[str, Array]]:
    """Token to its rows by text encoder."""
    found: dict[str, dict[str, Array]] = {token: {} for token in vectors}
    for key, array in tensors.items():
        if not key.startswith(_PARAMETER + _TOKENS):
            continue
        rows, at = np.asarray(floats(array)), 0
        for token, count in vectors.items():
            found[token][key.removeprefix(_PARAMETER + _TOKENS)] = rows[at : at + int(count)]
            at += int(count)
    return found
