"""kohya and A1111: `lora_unet_<path with underscores>.lora_down.weight`, read by every client."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lorakit.adapter import Adapter
from lorakit.errors import InputError
from lorakit.formats.adapters._pairs import pair, unmatched
from lorakit.targets import kohya_name_of, kohya_names


def matches(keys: Iterable[str]) -> bool:
    return any(key.startswith(("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")) for key in keys)


def decode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Adapter:
    names, modules, used = kohya_names(), {}, set()
    for stem in sorted({key.partition(".")[0] for key in tensors}):
        down, up, alpha = (f"{stem}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha"))
        if stem not in names or down not in tensors or up not in tensors:
            continue
        modules[names[stem]] = pair(tensors[down], tensors[up], tensors.get(alpha), stem)
        used |= {down, up, alpha}
    unmatched(tensors, used)
    return Adapter(modules, metadata)


def encode(adapter: Adapter) -> dict[str, Tensor]:
    tensors, names = {}, kohya_name_of()
    for module, low in adapter.modules.items():
        if module not in names:
            raise InputError(f"{module}: the kohya format has no name for this module")
        tensors[f"{names[module]}.lora_down.weight"] = low.down
        tensors[f"{names[module]}.lora_up.weight"] = low.up
        tensors[f"{names[module]}.alpha"] = torch.tensor(low.alpha, dtype=torch.float32)
    return tensors
