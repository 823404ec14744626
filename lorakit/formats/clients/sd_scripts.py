"""kohya's sd-scripts (`networks.lora`)."""

from __future__ import annotations

from lorakit.adapter import Adapter
from lorakit.families import FAMILIES
from lorakit.formats.clients import deaf, deaf_to, flat, named, originals, without_kernel
from lorakit.spellings import Spelled

VERSION = "sd-scripts 7dc64e0, run"
KINDS = {
    "dora": "drops dora_scale and applies the rest as a plain LoRA",
    **dict.fromkeys(
        ("tucker", "loha", "lokr", "full", "norm", "ia3", "glora", "oft", "boft", "bias"),
        "needs LyCORIS' network module for it",
    ),
}
_PLAIN = ("lora_up.weight", "lora_down.weight", "alpha")
_OTHERS = ("lora_A", "lora_B", "lora.", "_lora.", "lora_linear_layer", "lora_magnitude_vector")
_OUTSIDE = ("conv_in", "conv_out", "time_embedding", "add_embedding", "conv_norm_out")


def unread(spelled: Spelled, module: str, family: str | None) -> str:
    """Its names are those of the model it builds: diffusers' for Stable Diffusion 1 and 2, the original ones for SDXL, for
    which it turns diffusers' into them."""
    stem, (part, _, path) = named(spelled), module.partition(".")
    if spelled.prefix.text == "oft_unet_":
        return "needs its network module for OFT"
    if stem not in _names(part, path, family):
        if spelled.prefix.flat and spelled.prefix.format == "kohya" and "." not in stem:
            return "drops it in this spelling, which is not that of its model"
        return deaf(spelled)
    if part == "unet" and path.startswith(_OUTSIDE):
        return "wraps no module outside the blocks"
    if path == "text_projection":
        return "does not wrap text_projection"
    return deaf_to(spelled.ending) if spelled.ending.startswith(_OTHERS) else ""


def spoiled(adapter: Adapter, family: str | None) -> dict[str, str]:
    return dict.fromkeys(without_kernel(adapter), "refuses the file: a convolution's up factor is a matrix")


def _names(part: str, path: str, family: str | None) -> set[str]:
    if part == "unet":
        theirs = originals().get(path, ()) if family is None or FAMILIES[family].original else ()
        return {f"lora_unet_{flat(one)}" for one in (path, *theirs)}
    if part == "text_encoder_2":
        return {f"lora_te2_{flat(path)}"}
    both = family is None or "text_encoder_2" in FAMILIES[family].texts
    alone = family is None or not both
    return {f"{begin}{flat(path)}" for begin, had in (("lora_te1_", both), ("lora_te_", alone)) if had}
