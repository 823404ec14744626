"""The table of architectures: its names are those of diffusers' models, and each is told by what its adapters really hold."""

import diffusers
import pytest
import torch

from lorakit.architectures import ARCHITECTURES, named, told

# The class, and what makes it small; a block of each kind is enough.
MODELS = {
    "flux1": ("FluxTransformer2DModel", {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True}),
    "flux2": ("Flux2Transformer2DModel", {"num_layers": 1, "num_single_layers": 1}),
    "chroma": ("ChromaTransformer2DModel", {"num_layers": 1, "num_single_layers": 1}),
    "sd3": ("SD3Transformer2DModel", {"num_layers": 2, "dual_attention_layers": (0, 1)}),
    "qwen-image": ("QwenImageTransformer2DModel", {"num_layers": 1}),
    "z-image": ("ZImageTransformer2DModel", {"n_layers": 1, "n_refiner_layers": 1}),
    "lumina2": ("Lumina2Transformer2DModel", {"num_layers": 1}),
    "cosmos": ("CosmosTransformer3DModel", {"num_layers": 1}),
    "wan": ("WanTransformer3DModel", {"num_layers": 1, "added_kv_proj_dim": 64, "image_dim": 64}),
    "hunyuan-video": ("HunyuanVideoTransformer3DModel", {"num_layers": 1, "num_single_layers": 1}),
    "ltx": ("LTXVideoTransformer3DModel", {"num_layers": 1}),
    "ltx2": ("LTX2VideoTransformer3DModel", {"num_layers": 1}),
    "aura-flow": ("AuraFlowTransformer2DModel", {"num_mmdit_layers": 1, "num_single_dit_layers": 1}),
    "pixart": ("PixArtTransformer2DModel", {"num_layers": 1, "caption_channels": 64}),
    "sana": ("SanaTransformer2DModel", {"num_layers": 1}),
    "cogvideox": ("CogVideoXTransformer3DModel", {"num_layers": 1}),
    "mochi": ("MochiTransformer3DModel", {"num_layers": 2}),
    "krea2": ("Krea2Transformer2DModel", {"num_layers": 1}),
    "ideogram4": ("Ideogram4Transformer2DModel", {"num_layers": 1}),
}
UNCHECKED = {"anima", "hidream"}  # Cosmos with an adapter of its own; a class that is not made without its experts


@pytest.mark.parametrize("name", MODELS)
def test_the_parts_are_modules_of_diffusers_model(name):
    kind, small = MODELS[name]
    with torch.device("meta"):
        model = getattr(diffusers, kind)(**small)
    modules = {path for path, module in model.named_modules() if getattr(module, "weight", None) is not None}
    assert {part.replace("*", "0") for rule in ARCHITECTURES[name].rules for part in rule.parts} <= modules


def test_every_architecture_is_checked():
    assert set(MODELS) | UNCHECKED == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_two_modules_of_an_architecture_share_a_name(name):
    one = ARCHITECTURES[name]
    spelled = [part for rule in one.rules for part in {rule.original, *rule.parts}]
    assert len({part.replace(".", "_") for part in spelled}) == len(spelled)
    for rule in one.rules:
        place = one.place(rule.original.replace("*", "7"))
        assert place.original == rule.original.replace("*", "7") and place.is_fused == (len(rule.parts) > 1)


W = 3072
# What files in circulation hold: path and shape of the weight.
TOLD = {
    "flux1": {"double_blocks_0_img_attn_qkv": (3 * W, W), "single_blocks_37_linear2": (W, 5 * W)},
    "flux1 of diffusers": {
        "transformer_blocks.18.attn.to_q": (W, W),
        "single_transformer_blocks.37.norm.linear": (3 * W, W),
    },
    "flux2": {"double_blocks.0.img_attn.qkv": (3 * W, W), "single_blocks.3.linear1": (9 * W, W)},
    "chroma": {"double_blocks.0.img_attn.qkv": (3 * W, W), "distilled_guidance_layer.layers.0.in_layer": (5120, 5120)},
    "sd3": {"transformer_blocks.23.attn.to_q": (1536, 1536), "transformer_blocks.0.attn.to_out.0": (1536, 1536)},
    "sd3 of kohya": {"joint_blocks_0_x_block_attn_qkv": (4608, 1536)},
    "qwen-image": {f"transformer_blocks.{i}.attn.to_q": (W, W) for i in range(60)},
    "z-image": {"layers.3.attention.qkv": (3 * 3840, 3840)},
    "z-image split": {"layers.3.attention.to_q": (3840, 3840)},
    "lumina2": {"layers.3.attention.qkv": (3840, 2304)},
    "anima": {"blocks.0.self_attn.q_proj": (2048, 2048), "llm_adapter.blocks.0.mlp.0": (4096, 1024)},
    "wan": {"blocks_0_self_attn_q": (5120, 5120), "blocks_0_ffn_0": (13824, 5120)},
    "wan of diffusers": {"blocks.0.attn1.to_q": (1536, 1536)},
    "hunyuan-video": {"double_blocks.0.img_mod.linear": (6 * W, W), "double_blocks.0.img_attn_qkv": (3 * W, W)},
    "ltx": {"transformer_blocks.0.attn1.to_q": (2048, 2048)},
    "ltx2": {"transformer_blocks.0.audio_attn1.to_q": (2048, 2048)},
    "pixart": {"transformer_blocks.27.attn1.to_q": (1152, 1152)},
    "sana": {"transformer_blocks.19.attn1.to_q": (2240, 2240)},
    "hidream": {"double_stream_blocks.0.block.attn1.to_q": (2560, 2560)},
    "krea2": {"blocks.0.attn.wq": (6144, 6144)},
    "ideogram4": {"layers.0.attention.o": (4608, 4608)},
    "aura-flow": {"joint_transformer_blocks.0.attn.to_q": (W, W)},
}


@pytest.mark.parametrize("case", TOLD)
def test_an_architecture_is_told_by_names_and_shapes(case):
    assert told(TOLD[case]).names[0] == case.partition(" ")[0]


def test_the_metadata_decide_between_those_of_the_same_names():
    attention = {"double_blocks.18.img_attn.qkv": (3 * W, W)}
    assert told(attention).names == ("flux1", "chroma")
    assert told(attention, "chroma").names == ("chroma",)
    assert told(attention, "wan").names == ("flux1", "chroma")
    assert told(attention, clips=True).names == ("flux1",)


def test_half_of_the_modules_must_be_known():
    assert not told({"down_blocks_0_attentions_0_proj_in": (320, 320)}).names
    assert not told({"double_blocks.0.img_attn.qkv": None, "a": None, "b": None}).names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("flux1", "flux1"),
        ("flux-1-dev/lora", "flux1"),
        ("flux2", "flux2"),
        ("flux.2-klein-4B", "flux2"),
        ("chroma", "chroma"),
        ("sd3", "sd3"),
        ("stable-diffusion-3-medium/lora", "sd3"),
        ("stable-diffusion-v1/lora", None),
        ("sdxl_base_v1-0", None),
        ("lumina-2/lora", "lumina2"),
        ("hunyuan-video", "hunyuan-video"),
        ("wan2.1", "wan"),
        ("qwen-image/lora", "qwen-image"),
        ("Z-Image-Turbo", "z-image"),
        ("anima-preview", "anima"),
        ("animagine-xl", None),
        ("animatediff", None),
    ],
)
def test_what_metadata_call_it(text, name):
    assert named(text) == name
