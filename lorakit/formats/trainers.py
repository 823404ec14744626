"""Which program made an adapter, by what only it writes; the first mark that fits counts."""

from __future__ import annotations

import re

from lorakit.adapter import Adapter

# A metadata key, and what its value has in it.
_METADATA = (
    ("lorakit", "lorakit.version", ""),
    ("OneTrainer", "ot_branch", ""),
    ("OneTrainer", "ot_revision", ""),
    ("OneTrainer", "ot_config", ""),
    ("ai-toolkit", "software", "ai-toolkit"),
    ("ai-toolkit", "training_info", ""),
    ("SimpleTuner", "modelspec.implementation", "SimpleTuner"),
    ("SimpleTuner", "simpletuner", ""),
    ("musubi-tuner", "modelspec.implementation", "musubi"),
    (
        "musubi-tuner",
        "ss_network_module",
        r"networks\.lora_(hunyuan|wan|framepack|flux_kontext|flux_2|qwen|zimage|kandinsky)",
    ),
    ("diffusion-pipe", "diffusion_pipe", ""),
    ("anima_lora", "ss_network_module", "anima_lora"),
    ("LyCORIS in sd-scripts", "ss_network_module", "lycoris"),
    ("sd-scripts", "ss_network_module", ""),
    ("sd-scripts", "ss_sd_scripts_commit_hash", ""),
    ("sd-scripts", "modelspec.sai_model_spec", ""),
    ("diffusers", "lora_adapter_metadata", ""),
)
# What a key has in it that only this program's have.
_KEYS = (
    ("XLabs", r"\.processor\.(qkv|proj)_lora[12]?\."),
    ("ComfyUI", r"^text_encoders\."),
    ("LyCORIS", r"^lycoris_"),
    ("OneTrainer", r"^(lora_transformer_|clip_[lg]\.)"),
    ("PEFT", r"^(\w+/)?base_model\.model\."),
    ("PEFT", r"\.lora_[AB]\.default"),
    ("cloneofsimo's lora", r"^\w+:\d+:(up|down)$"),
)


def of(adapter: Adapter) -> str | None:
    """The program's name; None where nothing tells."""
    for name, key, value in _METADATA:
        if key in adapter.metadata and re.search(value, adapter.metadata[key]):
            return name
    return next((name for name, mark in _KEYS if any(re.search(mark, key) for key in adapter.keys.values())), None)
