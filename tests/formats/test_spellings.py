"""The table of spellings: every key is taken apart in one pass, whatever the model; and what is known is found."""

import numpy as np
import pytest

from lorakit.formats.adapters import checked, decode
from lorakit.registry import ADAPTER_FORMATS
from lorakit.spellings import PREFIXES, is_adapter_key, module_of, parse

QUERY = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = QUERY.replace("to_q", "to_out.0")
ORIGINAL = "input_blocks.4.1.transformer_blocks.0.attn1.to_q"
FLAT, FLAT_ORIGINAL = QUERY.replace(".", "_"), ORIGINAL.replace(".", "_")
TEXT = "text_model.encoder.layers.3.self_attn.q_proj"

# A key, to (part, path, factor, name of PEFT's adapter): of families that have tables, and of others.
PARSED = {
    f"lora_unet_{FLAT}.lora_down.weight": ("unet", FLAT, "lora_down.weight", ""),
    f"lora_unet_{FLAT}.lora_A.dog.weight": ("unet", FLAT, "lora_down.weight", "dog"),
    f"lora_unet_{FLAT.removesuffix('_to_q')}.to_q.lora_up.weight": ("unet", FLAT, "lora_up.weight", ""),
    f"lora_unet__orig_mod_{FLAT}.alpha": ("unet", FLAT, "alpha", ""),
    f"lora_te1_{TEXT.replace('.', '_')}.lora_magnitude_vector": (
        "text_encoder",
        TEXT.replace(".", "_"),
        "lora_magnitude_vector",
        "",
    ),
    "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": (
        "unet",
        "double_blocks_0_img_attn_qkv",
        "lora_up.weight",
        "",
    ),
    "lycoris_transformer_blocks_0_attn_to_q.lokr_w1": ("", "transformer_blocks_0_attn_to_q", "lokr_w1", ""),
    "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight": (
        "unet",
        "double_blocks.0.img_attn.qkv",
        "lora_down.weight",
        "",
    ),
    f"diffusion_model.{ORIGINAL}.diff_b": ("unet", ORIGINAL, "diff_b", ""),
    f"text_encoders.clip_g.transformer.{TEXT}.lora_B.weight": ("text_encoder_2", TEXT, "lora_up.weight", ""),
    f"clip_l.{TEXT}.lora_down.weight": ("text_encoder", TEXT, "lora_down.weight", ""),
    "transformer.transformer_blocks.0.attn.to_q.lora_B.default_0.bias": (
        "transformer",
        "transformer_blocks.0.attn.to_q",
        "lora_up.bias",
        "default_0",
    ),
    f"unet.base_model.model.{QUERY}.lora_A": ("unet", QUERY, "lora_down.weight", ""),
    f"base_model.model.unet.{QUERY}.lora_B": ("unet", QUERY, "lora_up.weight", ""),
    f"module._orig_mod.unet.{QUERY}.lora.down.weight": ("unet", QUERY, "lora_down.weight", ""),
    "unet._orig_mod.mid_block._orig_mod.attentions.0.proj_in.hada_w1_a.dog": (
        "unet",
        "mid_block.attentions.0.proj_in",
        "hada_w1_a",
        "dog",
    ),
    f"unet.{QUERY.replace('to_q', 'processor.to_out')}_lora.up.weight": (
        "unet",
        QUERY.replace("to_q", "to_out"),
        "lora_up.weight",
        "",
    ),
    f"{QUERY}.lora_magnitude_vector.dog.weight": ("", QUERY, "lora_magnitude_vector", "dog"),
    "layers.7.adaLN_modulation.0.q_layer.weight": ("", "layers.7.adaLN_modulation.0", "q_layer.weight", ""),
    "blocks.0.module.lora_C.weight": ("", "blocks.0.module.lora_C", "weight", ""),
    "nothing": ("", "", "", ""),
}


@pytest.mark.parametrize("key", PARSED)
def test_a_key_is_taken_apart(key):
    spelled = parse(key)
    assert (spelled.part, spelled.path, spelled.factor, spelled.adapter) == PARSED[key]
    assert key.endswith(spelled.ending.removeprefix("_lora."))


@pytest.mark.parametrize("text", PREFIXES)
def test_every_prefix_is_told_from_the_others(text):
    spelled = parse(f"{text}x.lora_up.weight")
    assert spelled.prefix.text == text and spelled.stem == f"{text}x" and is_adapter_key(spelled.key)
    assert spelled.prefix.format in ADAPTER_FORMATS.names()


PATHS = {  # a path as spelled, to ours
    f"lora_unet_{FLAT}": f"unet.{QUERY}",
    f"lora_unet_{FLAT_ORIGINAL}": f"unet.{QUERY}",
    f"lora_unet_{FLAT.replace('to_q', 'to_out')}": f"unet.{OUT}",
    f"lycoris_{FLAT_ORIGINAL}": f"unet.{QUERY}",
    f"diffusion_model.{ORIGINAL}": f"unet.{QUERY}",
    f"lora_unet.{QUERY}": f"unet.{QUERY}",
    f"unet.{ORIGINAL}": f"unet.{QUERY}",
    ORIGINAL: f"unet.{QUERY}",
    "clip_g.text_projection": "text_encoder_2.text_projection",
    f"text_encoder.{TEXT.removeprefix('text_model.')}": f"text_encoder.{TEXT}",
    f"text_encoder.{TEXT.replace('q_proj', 'to_q')}": f"text_encoder.{TEXT}",
    "transformer.anything.0": "transformer.anything.0",
    "diffusion_model.double_blocks.0.img_attn.qkv": None,
    "lora_unet_layers_0_attention_qkv": None,
}


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_looked_up(path):
    assert module_of(parse(f"{path}.lora_up.weight")) == PATHS[path]


def pair(stem: str, down: str = "lora_A.weight", up: str = "lora_B.weight", value: float = 1.0) -> dict:
    return {f"{stem}.{down}": np.full((2, 5), value, "f4"), f"{stem}.{up}": np.ones((3, 2), "f4")}


def test_the_name_of_an_adapter_is_no_matter_and_two_of_them_are_refused():
    named = pair(f"unet.{QUERY}", "lora_A.dog.weight", "lora_B.dog.weight")
    assert list(checked(decode(named, {}, "file"), "file").modules) == [f"unet.{QUERY}"]
    other = {key.replace("dog", "cat"): x + 1 for key, x in named.items()}
    (fault,) = decode(named | other, {}, "file").faults
    assert "'cat' and 'dog'" in fault


@pytest.mark.parametrize("factor", ["lambda_layer", "lora_embedding_A", "boft_R", "set_weight"])
def test_a_kind_that_is_not_read_is_named(factor):
    key = f"lora_unet_{FLAT}.{factor}"
    (fault,) = decode({key: np.ones((1, 2), "f4")}, {}, "file").faults
    assert fault.startswith(f"{key}: ") and "no kind of delta" not in fault
