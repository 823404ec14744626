"""ComfyUI's LoRA loader."""

from __future__ import annotations

from functools import cache

from lorakit.adapter import Adapter
from lorakit.deltas.low_rank import LowRank
from lorakit.formats.clients import deaf, deaf_to, flat, named, originals, output_axis, without_alpha
from lorakit.spellings import Spelled

VERSION = "ComfyUI 0.3.64, run; its key map as of 2026, read"
KINDS = {
    "ia3": "does not read IA3",
    "oft": "applies OFT at the square of the strength, without rescale",
    "boft": "applies BOFT at the square of the strength",
}
_ENDINGS = frozenset(
    {
        "lora_up.weight",
        "lora_down.weight",
        "lora_mid.weight",
        "_lora.up.weight",
        "_lora.down.weight",
        "lora_A.weight",
        "lora_B.weight",
        "lora.up.weight",
        "lora.down.weight",
        "lora_A",
        "lora_B",
        "lora_linear_layer.up.weight",
        "lora_linear_layer.down.weight",
        "lora_A.default.weight",
        "lora_B.default.weight",
        "alpha",
        "dora_scale",
        "diff",
        "diff_b",
        "w_norm",
        "b_norm",
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
        "a1.weight",
        "a2.weight",
        "b1.weight",
        "b2.weight",
        "oft_blocks",
        "rescale",
        "weight",
        "on_input",
    }
)
_LAYER = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
_TEXTS = {
    "text_encoder": (("lora_te_", "lora_te1_"), ("clip_l", "clip_h")),
    "text_encoder_2": (("lora_te2_",), ("clip_g",)),
}


def unread(spelled: Spelled, module: str, family: str | None) -> str:
    stem, (part, _, path) = named(spelled), module.partition(".")
    if stem not in _names(part, path):
        if stem == module and ".attn" in path:
            return "drops attention in this spelling: it knows `attn1.processor.to_q_lora` only"
        if part in _TEXTS and "text_model" not in stem and stem.startswith(("text_encoder", "lora_te")):
            return "drops text modules without `text_model.`"
        if part in _TEXTS and not path.endswith(_LAYER) and not stem.startswith("text_encoders."):
            return "drops this module of a text encoder in this spelling"
        return deaf(spelled)
    return "" if spelled.ending in _ENDINGS else deaf_to(spelled.ending)


@cache
def _names(part: str, path: str) -> frozenset[str]:
    """All that its key map has for a module."""
    if part == "unet":
        theirs = originals().get(path, frozenset())
        old = path.replace(".to_", ".processor.to_").removesuffix(".0" if ".to_out." in path else "")
        names = {f"lora_unet_{flat(path)}", f"lycoris_{flat(path)}", old, f"unet.{old}"}
        return frozenset(
            {*names, *(f"diffusion_model.{one}" for one in theirs), *(f"lora_unet_{flat(one)}" for one in theirs)}
        )
    if part not in _TEXTS:
        return frozenset()
    flats, clips = _TEXTS[part]
    names = {f"text_encoders.{clip}.transformer.{path}" for clip in clips}
    if path.endswith(_LAYER):
        names |= {f"{one}{flat(path)}" for one in flats} | {f"{part}.{path}"}
    if path == "text_projection":
        names |= {f"{one}{path}" for one in ("lora_te1_", "lora_te2_")}
    return frozenset(names)


def spoiled(adapter: Adapter, family: str | None) -> dict[str, str]:
    wrong = dict.fromkeys(without_alpha(adapter), "multiplies by the alpha, which is 0")
    wrong |= dict.fromkeys(output_axis(adapter), "divides a DoRA by the norm of the base weight alone (4-6 % off)")
    if "lora_adapter_metadata" in adapter.metadata:
        for name, delta in adapter.modules.items():
            if isinstance(delta, LowRank) and delta.scale != 1:
                wrong[name] = "does not read lora_adapter_metadata, which scales it"
    return wrong
