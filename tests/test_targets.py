"""The tables of modules agree with the models they describe, and their spellings are never ambiguous."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from lorakit.families import FAMILIES, guess, table
from lorakit.models.places import folder_of
from lorakit.spellings import module_of, parse
from lorakit.targets import PARTS, canonical, flat_paths, is_known, kohya_name_of, original_names, paths

DOWN, CROSS = "DownBlock2D", "CrossAttnDownBlock2D"
UP, CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"
SETTINGS = {
    "sd1": {"down_block_types": (CROSS, CROSS, CROSS, DOWN), "up_block_types": (UP, CROSS_UP, CROSS_UP, CROSS_UP)},
    "sd2": {
        "down_block_types": (CROSS, CROSS, CROSS, DOWN),
        "up_block_types": (UP, CROSS_UP, CROSS_UP, CROSS_UP),
        "use_linear_projection": True,
    },
    "sdxl": {
        "down_block_types": (DOWN, CROSS, CROSS),
        "up_block_types": (CROSS_UP, CROSS_UP, UP),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "sdxl-refiner": {
        "down_block_types": (DOWN, CROSS, CROSS, DOWN),
        "up_block_types": (UP, CROSS_UP, CROSS_UP, UP),
        "transformer_layers_per_block": 4,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2560,
    },
}


def unet(family: str) -> torch.nn.Module:
    with torch.device("meta"):
        if family == "tiny":
            config = json.loads((folder_of("tiny") / "unet" / "config.json").read_text())
            return UNet2DConditionModel.from_config(config)
        described = FAMILIES[family].unet
        return UNet2DConditionModel(
            block_out_channels=described.channels,
            cross_attention_dim=described.cross,
            attention_head_dim=8,
            **SETTINGS[family],
        )


def weights(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {k.removesuffix(".weight"): tuple(v.shape) for k, v in model.state_dict().items() if k.endswith(".weight")}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_unet_table_is_the_models_own(family):
    assert dict(FAMILIES[family].unet.weights()) == weights(unet(family))


@pytest.mark.parametrize(("family", "part"), [(f, p) for f, one in FAMILIES.items() for p in one.texts])
def test_a_text_table_is_the_models_own(family, part):
    text = FAMILIES[family].texts[part]
    with torch.device("meta"):
        model = CLIPTextModelWithProjection(
            CLIPTextConfig(
                hidden_size=text.width,
                intermediate_size=text.inner,
                num_hidden_layers=text.layers,
                num_attention_heads=4,
                projection_dim=text.projection or 8,
            )
        )
    theirs = {
        f"text_model.{k.removeprefix('text_model.')}" if k != "text_projection" else k: v
        for k, v in weights(model).items()
    }
    ours = dict(text.weights())
    assert ours == {k: v for k, v in theirs.items() if "embedding" not in k and (k != "text_projection" or k in ours)}


def test_no_two_modules_share_a_spelling():
    for family in FAMILIES:
        spelled = kohya_name_of(family)
        mine = {name: spelled[name] for name in table(family)}
        assert len(set(mine.values())) == len(mine)
        assert all(module_of(parse(f"{theirs}.alpha")) == name for name, theirs in mine.items())
        assert all(is_known(name) and canonical(name) == name for name in mine)
    flat = [theirs.replace(".", "_") for theirs in original_names()]
    assert len(set(flat)) == len(flat)
    assert not {f"lora_unet_{name}" for name in flat} & {
        f"lora_unet_{path.removeprefix('unet.').replace('.', '_')}" for path in table("sdxl")
    }
    for part in PARTS:  # of dotted paths and of flat ones, and of both together
        assert len(flat_paths(part)) == len(paths(part))
    texts = set(flat_paths("text_encoder")) & set(flat_paths("unet"))
    assert not texts  # LyCORIS' library puts one prefix before the modules of any model


def test_original_names_are_the_checkpoints():
    known = {
        "input_blocks.4.1.transformer_blocks.1.attn2.to_k": "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k",
        "middle_block.1.proj_in": "mid_block.attentions.0.proj_in",
        "input_blocks.3.0.op": "down_blocks.0.downsamplers.0.conv",
        "output_blocks.2.2.conv": "up_blocks.0.upsamplers.0.conv",
        "output_blocks.2.1.conv": "up_blocks.0.upsamplers.0.conv",
        "label_emb.0.2": "add_embedding.linear_2",
        "time_embed.0": "time_embedding.linear_1",
        "out.2": "conv_out",
        "input_blocks.4.0.emb_layers.1": "down_blocks.1.resnets.0.time_emb_proj",
        "output_blocks.8.0.skip_connection": "up_blocks.2.resnets.2.conv_shortcut",
    }
    assert {theirs: original_names()[theirs] for theirs in known} == known


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_known_by_its_shapes(family):
    attention = {name: shape for name, shape in table(family).items() if ".attn" in name}
    assert guess(attention).family == family
    assert guess(table(family)).family == family


def test_a_mixture_of_shapes_is_of_no_family():
    shapes = {name: (7, 7) for name in table("sd1") if ".attn" in name}
    assert guess(shapes).family is None and "7 inputs" in guess(shapes).evidence
