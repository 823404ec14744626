"""PEFT folders: `base_model.model.<path>.lora_A.weight`, with adapter_config.json for each part.

A file is read with its settings as metadata `adapter_config`; where a folder has several parts, each in a folder of its
own, keys and metadata begin with `unet/`, `text_encoder/` or `text_encoder_2/`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.families import Shape
from lorakit.formats.adapters import _marks
from lorakit.formats.adapters.diffusers import as_peft
from lorakit.formats.codec import Context, Encoded
from lorakit.formats.dotted import KeyReading, part_of_width
from lorakit.formats.factors import Factors, factors
from lorakit.formats.peft_config import STALE, PeftConfig, settings
from lorakit.spellings import PREFIXES, Spelled, module_of, parse
from lorakit.targets import PARTS

_PREFIX = "base_model.model."
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WITHOUT_SETTINGS = "is missing: the scale is taken to be 1"
_INNER = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1")  # modules that take a text encoder's width


def matches(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> bool:
    return _marks.is_first("peft", shapes, metadata)


def decode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    reading, configs = KeyReading(), dict[str, PeftConfig | None]()
    folders: dict[str, dict[str, Array]] = {}
    for key, array in tensors.items():
        folder, slash, path = key.rpartition("/")
        folders.setdefault(f"{folder}{slash}", {})[path] = array
    for folder, held in folders.items():
        spelled = [parse(path) for path in held]
        part = folder.removesuffix("/") or _part(spelled, held)
        configs[part] = _config(metadata, folder, reading)
        for one in spelled:
            _add(reading, part, one, f"{folder}{one.key}", held[one.key])
    single = configs.get("")
    return reading.adapter(lambda part: configs.get(part, single), _own(metadata), "peft")


def _add(reading: KeyReading, part: str, spelled: Spelled, key: str, array: Array) -> None:
    if not spelled.wrapped:
        reading.groups.unknown[key] = array
    elif spelled.factor in ("", "weight") and key.endswith((".weight", ".bias")):
        reading.faults.append(
            f"{key}: a whole tensor (of modules_to_save or bias) and no change; lorakit does not read it"
        )
    else:
        inside = PREFIXES.get(f"{part}.", spelled.prefix) if not spelled.part else spelled.prefix
        reading.add(replace(spelled, prefix=inside), array, key)


def _part(spelled: Iterable[Spelled], held: Mapping[str, Array]) -> str:
    """Of a folder that does not say it: whose table has its modules, and how wide they are. "" where none has them, or
    where the keys say it."""
    inside = [one for one in spelled if not one.part and module_of(one) is not None]
    parts = {str(module_of(one)).partition(".")[0] for one in inside}
    if "text_encoder" not in parts:
        return "unet" if "unet" in parts else ""
    if any(one.path == "text_projection" for one in inside):  # only the second text encoder has it
        return "text_encoder_2"
    arrays = (held[one.key] for one in inside if one.path.endswith(_INNER) and one.factor == "lora_down.weight")
    return part_of_width(next((int(x.shape[-1]) for x in arrays if x.ndim > 1), 0))


def _config(metadata: Mapping[str, str], folder: str, reading: KeyReading) -> PeftConfig | None:
    source = f"{folder}{_CONFIG}"
    text = metadata.get(f"{folder}adapter_config")
    if text is None:
        reading.notes.append(f"{source} {WITHOUT_SETTINGS}")
        return None
    try:
        config = PeftConfig.read(text, source)
    except ValueError as error:
        reading.faults.append(str(error))
        return None
    reading.faults += config.faults()
    reading.notes += config.notes()
    return config


def _own(metadata: Mapping[str, str]) -> dict[str, str]:
    """The safetensors files' own metadata, without the folders they lie in; of equal keys the first part's."""
    own: dict[str, str] = {}
    for key, value in metadata.items():
        folder, _, name = key.rpartition("/")
        own.setdefault(name if folder in PARTS else key, value)
    return {key: value for key, value in own.items() if key != "adapter_config"}


ENDINGS = (
    "lora_A.weight",
    "lora_B.weight",
    "lora_B.bias",
    "lora_magnitude_vector",
    "alpha",
    "oft_R.weight",
    "hada_w1_a",
    "hada_w1_b",
    "hada_w2_a",
    "hada_w2_b",
    "hada_t1",
    "hada_t2",
    "lokr_w1",
    "lokr_w1_a",
    "lokr_w1_b",
    "lokr_w2",
    "lokr_w2_a",
    "lokr_w2_b",
    "lokr_t2",
)


def stems_of(adapter: Adapter, context: Context) -> Callable[[str], Collection[str]]:
    """The names that a file of it may have today for a module of ours."""

    def stems(module: str) -> set[str]:
        part, _, path = module.partition(".")
        if part not in PARTS:
            return {f"{_PREFIX}{module}"}
        return {f"{_PREFIX}{path}", f"{_PREFIX}{path.removeprefix('text_model.')}"}

    return stems


def encode(adapter: Adapter, context: Context) -> Encoded:
    """A folder for PeftModel.from_pretrained: one part at its root, several in a folder each.

    Module paths are today's: transformers 5.6 took `text_model.` out of CLIPTextModel, and left it in
    CLIPTextModelWithProjection, which second text encoders are. Older ones look for it in both.
    """
    parts, losses = factors(adapter, context, PARTS, "PEFT")
    folder: dict[str, tuple[dict[str, Array], dict[str, str]] | str] = {}
    metadata = {key: value for key, value in adapter.metadata.items() if key not in STALE}
    metadata["format"] = "pt"
    for part, by_path in parts.items():
        prefix = f"{part}/" if len(parts) > 1 else ""
        folder[f"{prefix}{_CONFIG}"] = json.dumps(_settings(by_path), indent=2, sort_keys=True)
        folder[f"{prefix}{_WEIGHTS}"] = (_tensors(part, by_path), dict(metadata))
    return Encoded(folder=folder, losses=tuple(losses))


def _tensors(part: str, by_path: Mapping[str, Factors]) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    for path, one in by_path.items():
        stem = f"{_PREFIX}{path.removeprefix('text_model.') if part == 'text_encoder' else path}"
        tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"] = one.down, one.up
        if one.magnitude is not None:
            tensors[f"{stem}.lora_magnitude_vector"] = as_peft(one)
    return tensors


def _settings(by_path: Mapping[str, Factors]) -> dict[str, Any]:
    dora = any(one.magnitude is not None for one in by_path.values())
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        **settings({path: one.rank for path, one in by_path.items()}, dora),
    }
