"""ComfyUI's LoRA loader."""

from __future__ import annotations

from lorakit.adapter import Adapter
from lorakit.deltas.low_rank import LowRank
from lorakit.formats.clients import output_axis

VERSION = "ComfyUI 0.3.64, run"
READS = frozenset({"kohya", "lycoris", "diffusers", "diffusers-old"})
KINDS = {
    "ia3": "does not read IA3",
    "oft": "applies OFT at the square of the strength, without rescale",
    "boft": "applies BOFT at the square of the strength",
}
NAMES = (
    (
        r"^diffusers unet\.\S+\.attn[12]\.",
        "drops attention in this spelling: it knows `attn1.processor.to_q_lora` only",
    ),
    (r"^diffusers-old unet\.\S+\.attn[12]\.\S+ \S+\.(lora\.|lora_A|lora_B)", "drops attention in this spelling"),
    (r"^diffusers\S* text_encoder\S* text_encoder(_2)?\.encoder\.", "drops text modules without `text_model.`"),
    (r"^diffusers-old text_encoder\S* \S+\.to_\w+_lora\.", "drops text modules in this spelling"),
)


def spoiled(adapter: Adapter) -> dict[str, str]:
    wrong = dict.fromkeys(output_axis(adapter), "divides a DoRA by the norm of the base weight alone (4-6 % off)")
    if adapter.format.startswith("diffusers") and "lora_adapter_metadata" in adapter.metadata:
        for name, delta in adapter.modules.items():
            if isinstance(delta, LowRank) and delta.scale != 1:
                wrong[name] = "does not read lora_adapter_metadata, which scales it"
    return wrong
