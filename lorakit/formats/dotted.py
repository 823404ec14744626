"""From keys to an adapter, for all formats that name modules: parsed by the table of spellings, looked up, never guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from lorakit.adapter import Adapter
from lorakit.arrays import Array, floats, number
from lorakit.deltas.turned import rotations
from lorakit.families import FAMILIES
from lorakit.formats.codec import Groups, build, is_same
from lorakit.formats.peft_config import PeftConfig
from lorakit.formats.scaling import reshaped, scaled
from lorakit.spellings import Spelled, module_of, parse, within

_MAGNITUDE = "lora_magnitude_vector"
ConfigOf = Callable[[str], PeftConfig | None]


def part_of_width(width: int) -> str:
    """The text encoder that is so wide; of those that lorakit does not know, the first."""
    parts = {text.width: part for family in FAMILIES.values() for part, text in family.texts.items()}
    return parts.get(width, "text_encoder")


def read(tensors: Mapping[str, Array], metadata: Mapping[str, str], name: str) -> Adapter:
    """The adapter in a file without settings of PEFT's."""
    reading = KeyReading()
    for key, array in tensors.items():
        reading.add(parse(key), array)
    return reading.adapter(lambda part: None, metadata, name)


class KeyReading:
    """The keys of one file on their way to an adapter: grouped, then given the scale that PEFT's settings say."""

    def __init__(self) -> None:
        self.groups = Groups()
        self.faults: list[str] = []
        self.notes: list[str] = []
        self._spelled: dict[str, Spelled] = {}  # by stem, one of its keys
        self._adapters: dict[str, str] = {}  # PEFT's names of adapters, to the first key of each

    def add(self, spelled: Spelled, array: Array, key: str | None = None) -> None:
        """`key` is the file's, where it is not the one that was parsed."""
        key = spelled.key if key is None else key
        if spelled.adapter:
            self._adapters.setdefault(spelled.adapter, key)
        if module_of(spelled) is None:
            spelled = within(spelled) or spelled
        if not spelled.path or (not spelled.factor and module_of(spelled) is None):
            self.groups.unknown[key] = array
            return
        stem, factor = spelled.stem, spelled.factor or spelled.ending
        before = self.groups.modules.get(stem, {}).get(factor)
        if before is None:
            self._spelled.setdefault(stem, spelled)
            self.groups.add(stem, factor, key, array)
        elif is_same(before[1], array):
            self.groups.again.setdefault(stem, []).append(key)
        else:
            self.faults.append(f"{key}: a second spelling of {before[0]}")

    def adapter(self, config_of: ConfigOf, metadata: Mapping[str, str], name: str) -> Adapter:
        """The adapter; `config_of` gives the settings that scale the modules of a part, or None for scale 1."""
        if len(self._adapters) > 1:
            names = " and ".join(f"'{one}'" for one in sorted(self._adapters))
            self.faults = [f"{next(iter(self._adapters.values()))}: the file holds the adapters {names}; expected one"]
        text = self._text()
        resolved = {stem: module_of(spelled, text) for stem, spelled in self._spelled.items()}
        for stem, found in list(self.groups.modules.items()):
            part, _, path = (resolved[stem] or f"{self._spelled[stem].part}.{self._spelled[stem].path}").partition(".")
            try:
                _settle(found, config_of(part), path)
            except ValueError as error:
                self.faults.append(f"{next(iter(found.values()))[0]}: {error}")
                del self.groups.modules[stem]
        adapter = build(self.groups, resolved.get, metadata, name)
        return replace(adapter, faults=(*self.faults, *adapter.faults), notes=(*self.notes, *adapter.notes))

    def _text(self) -> str:
        """The text encoder of the modules that are one's, and of which nothing says which one's."""
        for stem, spelled in self._spelled.items():
            if spelled.part or not (name := module_of(spelled) or "").startswith("text_encoder."):
                continue
            if name.endswith(".text_projection"):  # only the second text encoder has it
                return "text_encoder_2"
            for factor in ("lora_down.weight", "hada_w1_b", "diff"):
                _, array = self.groups.modules[stem].get(factor, ("", None))
                if array is not None and array.ndim > 1 and not name.endswith("fc2"):
                    return part_of_width(int(array.shape[-1]))
        return "text_encoder"


def _rotated(found: dict[str, tuple[str, Array]], config: PeftConfig | None) -> None:
    """The rotations of an OFT of PEFT's, of the angles that its file has and the settings that say how they are meant;
    lorakit's own files have the rotations."""
    key, angles = found["oft_R"]
    if angles.ndim == 3:
        return
    if config is None:
        raise ValueError("an OFT of PEFT's, which means nothing without its adapter_config.json")
    if angles.ndim != 2:
        raise ValueError(f"oft_R {tuple(angles.shape)} are no angles, [n, b * (b - 1) / 2]")
    found["oft_R"] = (key, rotations(np.asarray(floats(angles)), config.terms()).astype(np.float32))


def _scaled_kind(found: dict[str, tuple[str, Array]], config: PeftConfig, path: str) -> None:
    """PEFT's LoHa and LoKr at the scale of its settings: alpha / r, also where a LoKr has no factor that tells r."""
    inner = next((found[name] for name in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b") if name in found), None)
    if inner is not None:
        found["alpha"] = (inner[0], np.array(config.alpha(path, int(inner[1].shape[0]))))
    elif "lokr_w1" in found:
        key, whole = found["lokr_w1"]
        rank = int(config.rank(path))
        found["lokr_w1"] = (key, scaled(whole, config.alpha(path, rank) / rank))


def _settle(found: dict[str, tuple[str, Array]], config: PeftConfig | None, path: str) -> None:
    """Alpha, bias and magnitude of one module as the kinds of delta want them."""
    down = found.get("lora_down.weight")
    if down is None:
        if _MAGNITUDE in found:
            raise ValueError("lora_A is missing")
        if "oft_R" in found:
            _rotated(found, config)
        elif config is not None:
            _scaled_kind(found, config, path)
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
