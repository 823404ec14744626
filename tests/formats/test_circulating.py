"""Every spelling in circulation is read by value; and what we say of clients is what they do with it."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel

from lorakit.deltas._base import relative_error
from lorakit.formats.adapters import checked, decode
from lorakit.formats.adapters._spellings import PREFIXES, parse
from lorakit.formats.clients import coverage
from lorakit.io import safetensors
from lorakit.registry import ADAPTER_FORMATS
from tests.adapter_files import random_adapter
from tests.formats.circulating import ROWS, few
from tests.formats.pipelines import base_of, effect, pipeline, random_for, wrong

CASES = [(name, family) for name, row in ROWS.items() for family in row.families]


@pytest.mark.parametrize(("name", "family"), CASES)
def test_a_spelling_is_read_by_value(name, family):
    row = ROWS[name]
    wanted = row.adapter(random_adapter(family, few, ranks=(2, 1), alphas=(2.0, 3.0)))
    tensors, metadata = row.file(wanted, family)
    read = checked(decode(tensors, metadata, "file"), "file")
    assert read.format == name.partition(",")[0] and read.modules.keys() == wanted.modules.keys()
    assert max(relative_error(delta, read.modules[one]) for one, delta in wanted.modules.items()) < 1e-6


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    pipes = {family: pipeline(folder / family, family) for family in ("sd1", "sdxl")}
    pipes["sdxl"].unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 32, 64), layers_per_block=2, cross_attention_dim=64, attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=8,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=1,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    )  # fmt: skip
    return pipes  # a UNet of as many layers a block as the original code's, whose names count them


@pytest.mark.parametrize(("name", "family"), CASES)
def test_what_we_say_of_diffusers_is_what_it_does(models, tmp_path, name, family):
    compared(
        ROWS[name], lambda n: few(n) or n.endswith("text_projection"), family, copy.deepcopy(models[family]), tmp_path
    )


def compared(row, holds, family, pipe, tmp_path, projection=4) -> None:
    """What the rules say of a file of some modules beside what diffusers makes of it."""
    base = base_of(pipe)
    names = [module for module in base if holds(module)]
    ranks = [projection if module.endswith("text_projection") else (4, 4, 3)[i % 3] for i, module in enumerate(names)]
    wanted = row.adapter(random_for(base, names, ranks=ranks, alphas=(2.0,)))
    tensors, metadata = row.file(wanted, family)
    tensors = {key: torch.as_tensor(x).clone() for key, x in tensors.items()}
    safetensors.write(tmp_path / "a.safetensors", tensors, metadata)
    opened = safetensors.open_file(tmp_path / "a.safetensors")
    read = checked(decode(dict(opened.items()), metadata, "file"), "file")
    try:
        measured = {
            line.partition(":")[0] for line in wrong(wanted, effect(pipe, tmp_path / "a.safetensors", base), base)
        }
    except (ValueError, IndexError, KeyError, RuntimeError, AttributeError):
        measured = set(wanted.modules)
    assert set(coverage(read, "diffusers").wrong) == measured


PARTIAL = {
    "text, queries": lambda n: n.startswith("text_encoder.") and n.endswith("q_proj"),
    "text, attention": lambda n: n.startswith("text_encoder.") and ".self_attn." in n,
    "text, no out_proj": lambda n: n.startswith("text_encoder.") and not n.endswith("out_proj"),
    "text, mlp": lambda n: n.startswith("text_encoder.") and ".mlp." in n,
    "unet, convolutions": lambda n: n.startswith("unet.") and ".resnets." in n,
    "unet and one mlp": lambda n: n.startswith("unet.mid_block") or n.endswith("layers.0.mlp.fc1"),
}  # fmt: skip


@pytest.mark.parametrize("part", PARTIAL)
@pytest.mark.parametrize("name", ["kohya", "diffusers"])
def test_what_we_say_of_diffusers_holds_for_parts_of_a_model(models, tmp_path, name, part):
    compared(ROWS[name], PARTIAL[part], "sd1", copy.deepcopy(models["sd1"]), tmp_path)


@pytest.mark.parametrize("name", ["kohya", "diffusers"])
@pytest.mark.parametrize("rank", [4, 3])
def test_a_projection_of_another_rank_makes_diffusers_refuse_the_file(models, tmp_path, name, rank):
    compared(
        ROWS[name], lambda n: n.startswith("text_encoder_2."), "sdxl", copy.deepcopy(models["sdxl"]), tmp_path, rank
    )


def test_every_prefix_is_in_a_spelling_that_is_run():
    seen = set()
    for name, family in CASES:
        row = ROWS[name]
        tensors, _ = row.file(row.adapter(random_adapter(family, few, ranks=(1,))), family)
        seen |= {parse(key).prefix.text for key in tensors}
    others = ("_te3", "transformer", "prior", "text_encoder_3", "t5xxl", "oft_unet_", "clip_h")
    assert {text for text in PREFIXES if not any(one in text for one in others)} <= seen | {"lora_te_"}
    assert {prefix.format for prefix in PREFIXES.values()} <= set(ADAPTER_FORMATS.names())
