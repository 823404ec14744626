"""kohya's sd-scripts (`networks.lora`)."""

from __future__ import annotations

VERSION = "sd-scripts 7dc64e0, run"
READS = frozenset({"kohya"})
KINDS = {
    "dora": "drops dora_scale and applies the rest as a plain LoRA",
    **dict.fromkeys(
        ("tucker", "loha", "lokr", "full", "norm", "ia3", "glora", "oft", "boft", "bias"),
        "needs LyCORIS' network module for it",
    ),
}
NAMES = (
    (r" unet\.(conv_in|conv_out|time_embedding|add_embedding)\b", "wraps no module outside the blocks"),
    (r" text_encoder\S*\.text_projection ", "does not wrap text_projection"),
)
