"""Names of the modules that adapters change, spelled as diffusers and transformers spell them.

One table serves every UNet of Stable Diffusion's kind: it lists the names that the largest of each shape has, and a
smaller model has some of them. Flattened names ("to_out_0") are looked up in it and never parsed.
"""

from collections.abc import Iterator
from functools import cache

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_PARTS = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}


def _transformer(base: str) -> Iterator[str]:
    yield from (f"{base}.proj_in", f"{base}.proj_out")
    for depth in range(10):
        block = f"{base}.transformer_blocks.{depth}"
        yield from (f"{block}.{attention}.{name}" for attention in ("attn1", "attn2") for name in _ATTENTION)
        yield from (f"{block}.ff.net.0.proj", f"{block}.ff.net.2")


def _resnet(base: str) -> Iterator[str]:
    yield from (f"{base}.{name}" for name in ("conv1", "conv2", "conv_shortcut", "time_emb_proj"))


def unet_modules() -> Iterator[str]:
    yield from ("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2")
    yield from ("add_embedding.linear_1", "add_embedding.linear_2")
    blocks = [f"{way}_blocks.{i}" for way in ("down", "up") for i in range(4)]
    for block in [*blocks, "mid_block"]:
        for i in range(3):
            yield from _transformer(f"{block}.attentions.{i}")
            yield from _resnet(f"{block}.resnets.{i}")
        yield from (f"{block}.downsamplers.0.conv", f"{block}.upsamplers.0.conv")


def text_encoder_modules() -> Iterator[str]:
    for i in range(32):
        layer = f"text_model.encoder.layers.{i}"
        yield from (f"{layer}.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj"))
        yield from (f"{layer}.mlp.fc1", f"{layer}.mlp.fc2")
    yield "text_projection"


@cache
def kohya_names() -> dict[str, str]:
    """kohya's flattened name to ours, of every module of every part."""
    names = {}
    for part, prefix in _PARTS.items():
        for module in unet_modules() if part == "unet" else text_encoder_modules():
            names[f"{prefix}_{module.replace('.', '_')}"] = f"{part}.{module}"
    names |= {k.replace("lora_te_", "lora_te1_", 1): v for k, v in names.items() if k.startswith("lora_te_")}
    return names


@cache
def kohya_name_of() -> dict[str, str]:
    return {ours: theirs for theirs, ours in kohya_names().items() if not theirs.startswith("lora_te1_")}
