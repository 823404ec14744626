"""A1111's web UI, and Forge's older builds."""

from __future__ import annotations

from lorakit.adapter import Adapter
from lorakit.deltas.dora import DoRA
from lorakit.deltas.low_rank import LowRank
from lorakit.formats.clients import deaf, deaf_to, flat, named, originals, output_axis, without_alpha
from lorakit.spellings import Spelled

VERSION = "network.py and networks.py as of 2026, read and not run"
KINDS: dict[str, str] = {}
_TEXTS = {"text_encoder": ("lora_te_", "lora_te1_"), "text_encoder_2": ("lora_te2_",)}
_AB = ("lora_A.weight", "lora_B.weight")
_OTHERS = ("lora_A", "lora_B", "lora.", "_lora.", "lora_linear_layer", "lora_magnitude_vector")


def unread(spelled: Spelled, module: str, family: str | None) -> str:
    """A name ends at the key's first dot; then it is looked up among the original model's, the UNet's in either spelling."""
    stem, (part, _, path) = named(spelled), module.partition(".")
    if part == "unet":
        known = {flat(one) for one in (path, *originals().get(path, ()))}
        names = {f"{begin}{one}" for one in known for begin in ("lora_unet_", "oft_unet_")}
    else:
        names = {f"{begin}{flat(path)}" for begin in _TEXTS.get(part, ())}
    if stem not in names:
        return deaf(spelled)
    if path.startswith(("add_embedding", "conv_norm_out")) and stem.endswith(flat(path)):
        return "drops it in diffusers' spelling"
    return deaf_to(spelled.ending) if spelled.ending.startswith(_OTHERS) and spelled.ending not in _AB else ""


def spoiled(adapter: Adapter, family: str | None) -> dict[str, str]:
    scaled = [
        name
        for name, delta in adapter.modules.items()
        if isinstance(delta, DoRA) and isinstance(delta.inner, LowRank) and delta.inner.scale != 1
    ]
    unscaled = [
        name
        for name, keys in adapter.spelled.items()
        if getattr(adapter.modules.get(name), "scale", 1) != 1 and any(key.endswith(_AB) for key in keys)
    ]
    wrong = dict.fromkeys(without_alpha(adapter), "multiplies by the alpha, which is 0")
    wrong |= dict.fromkeys(unscaled, "drops the alpha beside `lora_A`")
    wrong |= dict.fromkeys(
        scaled, "applies the scale of a DoRA's factors (alpha / rank) after its lengths and not before"
    )
    return wrong | dict.fromkeys(output_axis(adapter), "takes every DoRA by input column: a wrong matrix for this one")
