"""Every spelling in circulation is read by value; and what we say of clients is what they do with it."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import PeftModel

from lorakit.delta import relative_error
from lorakit.errors import InputError
from lorakit.formats import files
from lorakit.formats.adapters import checked, decode
from lorakit.formats.clients import coverage
from lorakit.io import safetensors
from lorakit.registry import ADAPTER_FORMATS, CLIENTS
from lorakit.spellings import PREFIXES, parse
from tests.formats.circulating import README, ROWS, STRANGERS, WHOLE, few, told, written
from tests.support.adapter_files import random_adapter
from tests.support.pipelines import base_of, effect, pipeline, random_for, weights, wrong

CASES = [(name, family) for name, row in ROWS.items() for family in row.families]


@pytest.mark.parametrize(("name", "family"), CASES)
def test_a_spelling_is_read_by_value(name, family):
    row = ROWS[name]
    wanted = row.adapter(random_adapter(family, few, ranks=(2, 1), alphas=(2.0, 3.0)))
    tensors, metadata = row.file(wanted, family)
    read = checked(decode(tensors, metadata, "file"), "file")
    assert read.format == name.partition(",")[0] and read.modules.keys() == wanted.modules.keys()
    assert max(relative_error(delta, read.modules[one]) for one, delta in wanted.modules.items()) < 1e-6


@pytest.mark.parametrize("row", STRANGERS, ids=lambda row: f"{row[1]}, {row[0]}")
def test_a_spelling_of_a_model_without_tables_is_read_by_value(row):
    """`_named` gives the i-th module a delta of i + 1 everywhere; XLabs' query, key and value are three modules."""
    who, what, names, _ = row
    read = checked(decode(*WHOLE[f"{what}, {who}"].file(), "file"), "file")
    values = set()
    for delta in read.modules.values():
        up, down = delta.factors()
        assert np.ptp(up) == np.ptp(down) == 0
        values.add(float(up[0] @ down[:, 0]))
    assert values == {float(i + 1) for i in range(len(names))}
    assert len(read.modules) == len(names) + 2 * ("qkv_lora1" in next(iter(names)))


def test_what_is_not_read_is_named():
    lost = [line.split(" | ")[1] for line in told() if "named, not read" in line]
    assert len(lost) > 10
    for whole in WHOLE.values():
        try:
            found = decode(*whole.file(), "file")
        except InputError as error:
            assert re.match(r"file is an? .*[A-Z].*; lorakit works with", str(error))
            continue
        assert not found.unknown
        assert all(re.search("which lorakit does not read|does not read it|T-LoRA", fault) for fault in found.faults)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    pipes = {family: pipeline(folder / family, family) for family in ("sd1", "sdxl")}
    pipes["sdxl"].unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32, 64),
        layers_per_block=2,
        cross_attention_dim=64,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        norm_num_groups=8,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    )
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
}


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
    others = ("lora_transformer", "transformer.", "transformer_2.", "prior", "oft_unet_", "clip_h")
    ours = {text for text, prefix in PREFIXES.items() if prefix.part != "text_encoder_3"}
    assert {
        text for text in ours if not text.startswith(others) and "prior" not in text and "clip_h" not in text
    } <= seen | {"lora_te_"}
    assert {prefix.format for prefix in PREFIXES.values()} <= set(ADAPTER_FORMATS.names())


PEFT = {  # keys in a folder of a part, made of the part and of the module's path in the model
    "as PEFT has them": "base_model.model.{}.lora_A.weight",
    "named": "base_model.model.{}.lora_A.dog.weight",
    "bare": "base_model.model.{}.lora_A",
    "compiled": "base_model.model._orig_mod.{}.lora_A.weight",
    "kohya's factors": "base_model.model.{}.lora_down.weight",
    "text_model": "base_model.model.text_model.{}.lora_A.weight",
    "former": "base_model.model.{}.lora.down.weight",
}


@pytest.mark.parametrize("part", ["unet", "text_encoder", "text_encoder_2"])
@pytest.mark.parametrize("name", PEFT)
def test_what_we_say_of_peft_is_what_it_does(models, tmp_path, name, part):
    if part == "unet" and name == "text_model":
        return
    base = weights(getattr(models["sdxl"], part), part)
    wanted = random_for(base, [module for module in base if few(module)], ranks=(4,), alphas=(4.0,))
    tensors = {}
    for module, delta in wanted.modules.items():
        path = module.partition(".")[2]
        path = path.removeprefix("text_model.") if part == "text_encoder" or name == "text_model" else path
        key = PEFT[name].format(path)
        other = key.replace("lora_A", "lora_B").replace("lora_down", "lora_up").replace("lora.down", "lora.up")
        tensors |= {key: delta.down, other: delta.up}
    paths = [module.partition(".")[2].removeprefix("text_model.") for module in wanted.modules]
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": paths}
    (tmp_path / part).mkdir()
    (tmp_path / part / "adapter_config.json").write_text(json.dumps(config))
    safetensors.write(
        tmp_path / part / "adapter_model.safetensors", {k: x.clone() for k, x in tensors.items()}, {"format": "pt"}
    )
    read = files.read(tmp_path)
    assert read.modules.keys() == wanted.modules.keys()
    model = PeftModel.from_pretrained(copy.deepcopy(getattr(models["sdxl"], part)), tmp_path / part).merge_and_unload()
    got = {module: weight - base[module] for module, weight in weights(model, part).items()}
    measured = {line.partition(":")[0] for line in wrong(wanted, got, base)}
    assert set(coverage(read, "peft").wrong) == measured


# What ComfyUI's and sd-scripts' maps of names have, as read there and run: by spelling, what of a file they apply. The
# names are those of the modules, the part first.
def _attention(module):
    return module.startswith("unet.") and ".attn" in module


COMFYUI = {
    **dict.fromkeys(
        (
            "kohya",
            "kohya, diffusers' names",
            "kohya, te1",
            "kohya, sgm names",
            "kohya, no alpha",
            "kohya, PEFT's factors",
            "kohya, diffusers' factors",
            "comfy",
            "comfy, alpha",
            "comfy, PEFT's factors",
            "comfy, PEFT's factors, alpha",
            "lycoris",
            "diffusers-old, no part",
        ),
        lambda module: True,
    ),
    **dict.fromkeys(
        (
            "diffusers",
            "diffusers, alpha",
            "diffusers, no part",
            "diffusers, kohya's factors",
            "diffusers, adapter named",
            "diffusers, bare",
            "diffusers-old, interim",
            "diffusers-old, mixture",
        ),
        lambda module: not _attention(module),
    ),
    "diffusers, no text_model": lambda module: module.startswith("unet.") and not _attention(module),
    "kohya, short text": lambda module: module.startswith("unet."),
    "diffusers-old": _attention,
    **dict.fromkeys(
        (
            "omi",
            "omi, PEFT's factors",
            "kohya, dotted",
            "lycoris, original names",
            "comfy, checkpoint",
            "diffusers, other adapter",
            "diffusers, compiled",
            "diffusers, compiled part",
            "diffusers, distributed",
            "peft, in a part",
            "peft, around",
        ),
        lambda module: False,
    ),
}


def _outside(module):
    return module.startswith(("unet.conv_in", "unet.time_embedding", "unet.add_embedding"))


SD_SCRIPTS = {
    **dict.fromkeys(("kohya", "kohya, diffusers' names", "kohya, no alpha"), lambda module: not _outside(module)),
    "kohya, te1": lambda module: module.startswith("unet.") and not _outside(module),
    "kohya, sgm names": lambda module: module.startswith("text_encoder."),
    "kohya, short text": lambda module: module.startswith("unet.") and not _outside(module),
    "kohya, to_out": lambda module: not module.endswith("to_out.0"),
    **dict.fromkeys(
        (
            "kohya, PEFT's factors",
            "kohya, diffusers' factors",
            "kohya, dotted",
            "omi",
            "comfy",
            "lycoris",
            "diffusers",
            "diffusers-old",
        ),
        lambda module: False,
    ),
}


@pytest.mark.parametrize(
    ("client", "name"), [*(("comfyui", name) for name in COMFYUI), *(("sd-scripts", name) for name in SD_SCRIPTS)]
)
def test_what_we_say_of_comfyui_and_sd_scripts_is_what_their_maps_have(client, name):
    applies = {"comfyui": COMFYUI, "sd-scripts": SD_SCRIPTS}[client][name]
    for family in ROWS[name].families:
        wanted = ROWS[name].adapter(random_adapter(family, few, ranks=(1,)))
        read = decode(*ROWS[name].file(wanted, family), "file")
        assert set(coverage(read, client).wrong) == {module for module in wanted.modules if not applies(module)}


def test_the_readme_has_the_table_as_it_is():
    text = README.read_text(encoding="utf-8")
    assert written(text) == text


def test_every_client_that_takes_a_format_of_ours_takes_what_we_write(tmp_path):
    """What `lorakit` names itself as the writer of is right in some client, whole but for what no client wraps."""
    for name in ("kohya", "comfy", "diffusers"):
        row = ROWS[name]
        read = decode(*row.file(row.adapter(random_adapter("sdxl", few, ranks=(1,))), "sdxl"), "file")
        assert any(not coverage(read, client).wrong for client in CLIENTS.names())
