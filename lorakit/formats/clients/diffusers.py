"""diffusers' `load_lora_weights`."""

from __future__ import annotations

import re
from collections import Counter

from lorakit.adapter import Adapter
from lorakit.families import FAMILIES, table
from lorakit.formats.evidence import family_of

VERSION = "diffusers 0.42.1 with transformers 5.24, run"
READS = frozenset({"kohya", "diffusers", "diffusers-old"})
KINDS: dict[str, str] = {}
NAMES = (
    (r"^kohya unet\.add_embedding\.\S+ lora_unet_add_embedding", "dropped: it reads this module in sgm spelling only"),
)
_COMMON = re.compile(r"\.(attn1|attn2|self_attn)\.|^text_encoder\..*\.mlp\.")
_PLAIN = frozenset({"lora", "dora"})


def spoiled(adapter: Adapter) -> dict[str, str]:
    modules = [*adapter.modules, *adapter.biases]
    foreign = sorted({delta.kind for delta in adapter.modules.values()} - _PLAIN)
    if adapter.format == "kohya":
        foreign += ["biases"] * bool(adapter.biases) + ["bundle_emb"] * bool(adapter.embeddings)
    if foreign or adapter.unknown:
        why = ", ".join(foreign) or "unknown keys"
        return dict.fromkeys(modules, f"refuses the whole file for its {why}")
    wrong = _stray_dimensions(adapter, modules)
    if adapter.format == "kohya" and not wrong:
        wrong = {**_common_alpha(adapter), **_original_names(adapter)}
        dora = [name for name, delta in adapter.modules.items() if delta.kind == "dora"]
        wrong |= dict.fromkeys(dora, "drops dora_scale and applies the rest as a plain LoRA")
    if adapter.format == "diffusers-old":
        wrong |= _mixed(adapter)
    return wrong


def _stray_dimensions(adapter: Adapter, modules: list[str]) -> dict[str, str]:
    family = family_of(adapter).family
    weights = table(family) if family else {}
    for name, delta in adapter.modules.items():
        if delta.shape and name in weights and len(delta.shape) != len(weights[name]):
            return dict.fromkeys(modules, "refuses the whole file: a linear module is stored as a 1x1 convolution")
    return {}


def _common_alpha(adapter: Adapter) -> dict[str, str]:
    """All attention gets the commonest alpha of its part, and so does the MLP of a CLIPTextModel, whose modules
    transformers >= 5.6 names without `text_model.`; those of a CLIPTextModelWithProjection keep their own."""
    alphas: dict[str, dict[str, float]] = {}
    for name, delta in adapter.modules.items():
        if hasattr(delta, "alpha") and delta.kind == "lora":
            alphas.setdefault(name.partition(".")[0], {})[name] = delta.alpha
    wrong = {}
    for by_module in alphas.values():
        common = Counter(by_module.values()).most_common(1)[0][0]
        for name, alpha in by_module.items():
            if alpha != common and _COMMON.search(name):
                wrong[name] = "applies the commonest alpha of the part and not its own"
    return wrong


def _original_names(adapter: Adapter) -> dict[str, str]:
    """sgm names are known for SDXL alone, and are dropped where diffusers' names stand beside them."""
    original = [
        name for name, key in adapter.keys.items()
        if name in adapter.modules and key.startswith("lora_unet_") and not key.startswith(_flat(name))
    ]  # fmt: skip
    if not original:
        return {}
    family = family_of(adapter).family
    if family is None or not FAMILIES[family].original:
        kept = ("unet.conv_in", "unet.conv_out", "unet.time_embedding")
        return {name: "drops sgm names outside SDXL" for name in original if not name.startswith(kept)}
    unet = [name for name in adapter.modules if name.startswith("unet.")]
    if len(original) < len(unet):
        return dict.fromkeys(original, "drops sgm names where diffusers' stand beside them")
    return {}


def _flat(name: str) -> str:
    return f"lora_unet_{name.removeprefix('unet.').replace('.', '_')}."


def _mixed(adapter: Adapter) -> dict[str, str]:
    """A file that begins with lora_A is not converted, so attention in the older spelling is lost."""
    first = next(iter(adapter.keys.values()), "")
    if ".lora_A." not in first and ".lora_B." not in first:
        return {}
    return {
        name: "drops the older spelling in a file that begins with the newer"
        for name, key in adapter.keys.items()
        if ".lora." in key
    }
