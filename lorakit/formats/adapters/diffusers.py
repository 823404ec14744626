"""diffusers' own: `unet.<path>.lora_A.weight` and `lora_B.weight`, with the scale in the factors."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from lorakit.adapter import Adapter
from lorakit.errors import InputError
from lorakit.formats.adapters._pairs import pair, unmatched


def matches(keys: Iterable[str]) -> bool:
    return any(key.endswith(".lora_A.weight") and key.startswith(("unet.", "text_encoder")) for key in keys)


def decode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Adapter:
    if "lora_adapter_metadata" in metadata:  # it changes the scale of the very same tensors
        raise InputError("its `lora_adapter_metadata` rescales the tensors, which this version does not read yet")
    modules, used = {}, set()
    for down in sorted(key for key in tensors if key.endswith(".lora_A.weight")):
        module = down.removesuffix(".lora_A.weight")
        up, alpha = f"{module}.lora_B.weight", f"{module}.alpha"
        if up in tensors:
            modules[module] = pair(tensors[down], tensors[up], tensors.get(alpha), module)
            used |= {down, up, alpha}
    unmatched(tensors, used)
    return Adapter(modules, metadata)


def encode(adapter: Adapter) -> dict[str, Tensor]:
    """Files without `lora_adapter_metadata` are read at scale 1, so the scale goes into the ups."""
    tensors = {}
    for module, low in adapter.modules.items():
        tensors[f"{module}.lora_A.weight"] = low.down
        tensors[f"{module}.lora_B.weight"] = low.up if low.scale == 1 else (low.up.float() * low.scale).to(low.up)
    return tensors
