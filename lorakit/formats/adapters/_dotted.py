"""Dotted names, `<part>.<module path>.<ending>`: what diffusers' and PEFT's spellings share. Looked up, never guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

import numpy as np

from lorakit.adapter import Adapter
from lorakit.arrays import Array, number
from lorakit.families import FAMILIES
from lorakit.formats.adapters._modules import Groups, build, reshaped, scaled
from lorakit.formats.adapters._peft_config import PeftConfig
from lorakit.registry import DELTA_KINDS
from lorakit.targets import PARTS, canonical, is_known, text_paths, unet_paths

OPAQUE = ("transformer", "transformer_2", "prior", "text_encoder_3")  # of architectures without tables
_PREFIXES = tuple(f"{part}." for part in (*PARTS, *OPAQUE))
_MAGNITUDE = "lora_magnitude_vector"
_PEFT = {
    "lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight", "lora_B.bias": "lora_up.bias",
    "lora_A.default.weight": "lora_down.weight", "lora_B.default.weight": "lora_up.weight",
    "lora_B.default.bias": "lora_up.bias", f"{_MAGNITUDE}.weight": _MAGNITUDE, f"{_MAGNITUDE}.default": _MAGNITUDE,
    f"{_MAGNITUDE}.default.weight": _MAGNITUDE, _MAGNITUDE: _MAGNITUDE,
    "lora.down.weight": "lora_down.weight", "lora.up.weight": "lora_up.weight",
    "lora_linear_layer.down.weight": "lora_down.weight", "lora_linear_layer.up.weight": "lora_up.weight",
}  # fmt: skip


@cache
def endings() -> dict[str, str]:
    """Every ending that a dotted key may have to ours: PEFT's, diffusers' former ones and those of all kinds of delta."""
    ours = {"diff_b", "b_norm"}.union(*(DELTA_KINDS[name].SUFFIXES for name in DELTA_KINDS.names()))
    return {ending: ending for ending in ours} | _PEFT


def part_of_width(width: int) -> str:
    """The text encoder that is so wide; of those that lorakit does not know, the first."""
    parts = {text.width: part for family in FAMILIES.values() for part, text in family.texts.items()}
    return parts.get(width, "text_encoder")


def placed(key: str, text: str = "text_encoder") -> str:
    """The key with the part before it where it lacks it and the tables know the module; `text` is the text encoder's."""
    if key.startswith(_PREFIXES):
        return key
    for part, paths in (("unet", unet_paths()), (text, text_paths())):
        stem = split(f"{part}.{key}")
        if stem is not None and canonical(stem[0]).removeprefix(f"{part}.") in paths:
            return f"{part}.{key}"
    return key


def split(key: str) -> tuple[str, str] | None:
    """(module name as spelled, ending in our spelling): after the longest known module's name, else the longest known
    ending; None where the key has neither."""
    words = key.split(".")
    for n in range(len(words) - 1, 1, -1):
        if is_known(canonical(stem := ".".join(words[:n]))):
            ending = ".".join(words[n:])
            return stem, endings().get(ending, ending)
    for n in range(max(1, len(words) - 4), len(words)):
        if (ending := ".".join(words[n:])) in endings():
            return ".".join(words[:n]), endings()[ending]
    return None


def is_adapter_key(key: str) -> bool:
    """Whether it has a module and an ending that only adapters have (a model's own weights end in `weight`, too)."""
    if not key.startswith(_PREFIXES) and key.partition(".")[0] not in _tops():
        return False
    words = key.replace("_lora.", ".lora.").split(".")  # diffusers' oldest: to_q_lora.down.weight
    tails = (".".join(words[n:]) for n in range(max(1, len(words) - 4), len(words)))
    return any(tail in endings() and tail not in ("weight", "alpha") for tail in tails)


@cache
def _tops() -> frozenset[str]:
    """First words of the paths of modules: of files without parts."""
    return frozenset(path.partition(".")[0] for path in (*unet_paths(), *text_paths()))


def resolved(stem: str) -> str | None:
    """Our name of a module as spelled; its own where no table can have it; None where a table should, and has not."""
    name = canonical(stem)
    return name if is_known(name) else stem if stem.partition(".")[0] in OPAQUE else None


class Reading:
    """The keys of one file on their way to an adapter: grouped, then given the scale that PEFT's settings say."""

    def __init__(self) -> None:
        self.groups = Groups()
        self.faults: list[str] = []
        self.notes: list[str] = []

    def add(self, spelled: str, key: str, array: Array) -> None:
        """`spelled` is the key by the rules of this file's module: a part, a path, an ending."""
        found = split(spelled)
        if found is None:
            self.groups.unknown[key] = array
            return
        stem, ending = found
        before = self.groups.modules.get(stem, {}).get(ending)
        if before is not None:
            self.faults.append(f"{key}: a second spelling of {before[0]}")
        else:
            self.groups.add(stem, ending, key, array)

    def adapter(
        self, config_of: Callable[[str], tuple[PeftConfig | None, str]], metadata: Mapping[str, str], name: str
    ) -> Adapter:
        """The adapter; `config_of` gives the settings that scale a module and its path there, or None for scale 1."""
        for stem, found in list(self.groups.modules.items()):
            try:
                _settle(found, *config_of(stem))
            except ValueError as error:
                self.faults.append(f"{next(iter(found.values()))[0]}: {error}")
                del self.groups.modules[stem]
        adapter = build(self.groups, resolved, metadata, name)
        return replace(adapter, faults=(*self.faults, *adapter.faults), notes=(*self.notes, *adapter.notes))


def _settle(found: dict[str, tuple[str, Array]], config: PeftConfig | None, path: str) -> None:
    """Alpha, bias and magnitude of one module as the kinds of delta want them."""
    down = found.get("lora_down.weight")
    if down is None:
        if _MAGNITUDE in found:
            raise ValueError("lora_A is missing")
        return
    rank = int(down[1].shape[0])
    if config is not None:
        alpha = config.alpha(path, rank)
        stored = number(found["alpha"][1]) if "alpha" in found else alpha
        if stored != alpha:
            raise ValueError(f"its alpha is {stored:g}, but the file's settings make it {alpha:g}")
        found["alpha"] = (down[0], np.array(alpha))
    if "lora_up.bias" in found and "alpha" in found:  # the bias is inside lora_B: scaled as the rest is
        key, bias = found["lora_up.bias"]
        found["lora_up.bias"] = (key, scaled(bias, number(found["alpha"][1]) / rank))
    if _MAGNITUDE in found:
        key, magnitude = found.pop(_MAGNITUDE)
        ones = (1,) * (down[1].ndim - 1)
        found["dora_scale"] = (key, reshaped(magnitude, (int(np.prod(magnitude.shape)), *ones)))  # PEFT's is by output
