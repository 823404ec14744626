"""PEFT folders: what their settings mean, and that PEFT itself makes the same of ours and we of its."""

import json

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, PeftModel, get_peft_model
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from lorakit.adapter import Adapter
from lorakit.delta import relative_error
from lorakit.deltas.dora import DoRA
from lorakit.deltas.low_rank import LowRank
from lorakit.formats import files
from lorakit.formats.adapters import checked, decode, peft, sniff
from lorakit.formats.codec import Context
from tests.support.adapter_files import random_adapter
from tests.support.pipelines import Weights, random_for, save, weights, wrong
from tests.tiny import make

PATH = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
LAYER = "encoder.layers.0.self_attn.q_proj"
CLASSES = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


def pair(path: str, rank: int = 2, out: int = 3, width: int = 5, prefix: str = "") -> dict[str, np.ndarray]:
    stem = f"{prefix}base_model.model.{path}"
    return {f"{stem}.lora_A.weight": np.ones((rank, width), "f4"), f"{stem}.lora_B.weight": np.ones((out, rank), "f4")}


def config(prefix: str = "", **fields) -> dict[str, str]:
    return {f"{prefix}adapter_config": json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, **fields})}


def value(adapter: Adapter, module: str) -> float:
    numbers = np.unique(np.asarray(adapter.modules[module].delta()))
    assert len(numbers) == 1
    return float(numbers[0])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 2),
        ({"lora_alpha": 4}, 4),
        ({"lora_alpha": 4, "use_rslora": True}, 2 * 4 / 2**0.5),
        ({"r": 8, "rank_pattern": {"mid_block.*": 2}}, 2),
        ({"alpha_pattern": {"to_q": 8}}, 8),
        ({"alpha_pattern": {"^to_q": 8}}, 2),
        ({"alpha_pattern": {f"^{PATH}": 8}}, 8),
        ({"init_lora_weights": "gaussian"}, 2),
        ({"init_lora_weights": "eva"}, 2),  # begins at the activations' directions and leaves the base alone
        ({"init_lora_weights": True, "peft_type": "PeftType.LORA"}, 2),
    ],
)
def test_settings_scale_the_factors(fields, expected):
    adapter = checked(decode(pair(PATH), config(**fields), "folder"), "folder")
    assert adapter.format == "peft" and adapter.notes == ()
    assert value(adapter, f"unet.{PATH}") == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"init_lora_weights": "pissa"}, "altered the base model"),
        ({"init_lora_weights": "pissa_niter_16"}, "altered the base model"),
        ({"init_lora_weights": "olora"}, "altered the base model"),
        ({"init_lora_weights": "corda"}, "altered the base model"),
        ({"init_lora_weights": "lora_ga"}, "altered the base model"),
        ({"init_lora_weights": "loftq"}, "altered the base model"),
        ({"peft_type": "ADALORA"}, "peft_type is ADALORA"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "layer_replication is set"),
        ({"r": 4}, "its rank is 2, but adapter_config.json says 4"),
        ({"r": None}, "has r None, expected a number"),
    ],
)
def test_settings_under_which_the_factors_are_no_delta_are_faults(fields, words):
    faults = decode(pair(PATH), config(**fields), "folder").faults
    assert words in faults[0]


def test_without_settings_the_scale_is_1_and_a_note_says_so():
    adapter = checked(decode(pair(PATH), {}, "file"), "file")
    assert value(adapter, f"unet.{PATH}") == 2
    assert adapter.notes == ("adapter_config.json is missing: the scale is taken to be 1",)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("base_model.model.conv_in.weight", "modules_to_save"),
        (f"base_model.model.{PATH}.base_layer.bias", "modules_to_save or bias"),
        ("base_model.model.embeddings.token_embedding.lora_embedding_A", "a LoRA of an embedding"),
    ],
)
def test_tensors_that_are_no_factors_are_named(key, words):
    (fault,) = decode(pair(PATH) | {key: np.ones(3, "f4")}, config(), "folder").faults
    assert fault.startswith(f"{key}: ") and words in fault


def test_fan_in_fan_out_is_noted_as_peft_notes_it():
    adapter = checked(decode(pair(PATH), config(fan_in_fan_out=True), "folder"), "folder")
    assert value(adapter, f"unet.{PATH}") == 2 and "fan_in_fan_out" in adapter.notes[0]


@pytest.mark.parametrize(
    ("path", "width", "expected"),
    [
        (PATH, 5, f"unet.{PATH}"),
        (LAYER, 768, f"text_encoder.text_model.{LAYER}"),
        (f"text_model.{LAYER}", 768, f"text_encoder.text_model.{LAYER}"),
        (f"text_model.{LAYER}", 1024, f"text_encoder.text_model.{LAYER}"),
        (f"text_model.{LAYER}", 1280, f"text_encoder_2.text_model.{LAYER}"),
        ("text_projection", 32, "text_encoder_2.text_projection"),
        ("transformer_blocks.0.attn.to_q", 5, "transformer_blocks.0.attn.to_q"),
    ],
)
def test_a_folder_that_does_not_say_its_part_is_placed_by_the_tables(path, width, expected):
    tensors = pair(path, out=width, width=width)
    anchored = config(alpha_pattern={f"^{path}": 4})
    adapter = checked(decode(tensors, anchored, "folder"), "folder")
    assert list(adapter.modules) == [expected] and value(adapter, expected) == 4


def test_parts_in_folders_have_settings_of_their_own():
    tensors = pair(PATH, prefix="unet/") | pair(LAYER, prefix="text_encoder/") | pair(LAYER, prefix="text_encoder_2/")
    metadata = {**config("unet/", lora_alpha=4), **config("text_encoder/", lora_alpha=6), "unet/format": "pt"}
    adapter = checked(decode(tensors, metadata, "folder"), "folder")
    assert {name.partition(".")[0]: value(adapter, name) for name in adapter.modules} == {
        "unet": 4,
        "text_encoder": 6,
        "text_encoder_2": 2,
    }
    assert adapter.metadata == {"format": "pt"} and "text_encoder_2/adapter_config.json is missing" in adapter.notes[0]


def test_what_the_format_cannot_hold_is_named():
    low = LowRank(np.ones((1, 4), "f4"), np.ones((4, 1), "f4"), 1.0)
    adapter = Adapter(
        modules={f"unet.{PATH}": low, "transformer.x": low}, embeddings={"<s1>": {}}, unknown={"x": np.ones(1)}
    )
    written = peft.encode(adapter, Context())
    assert [line.partition(":")[0] for line in written.losses] == ["transformer.x", "<s1>", "x"]
    assert set(written.folder) == {"adapter_config.json", "adapter_model.safetensors"}


def contents(encoded) -> tuple[dict, dict]:
    tensors, metadata = {}, {}
    for path, content in encoded.folder.items():
        prefix = f"{path.rpartition('/')[0]}/" if "/" in path else ""
        if isinstance(content, str):
            metadata[f"{prefix}adapter_config"] = content
        else:
            tensors |= {f"{prefix}{key}": x for key, x in content[0].items()}
            metadata |= {f"{prefix}{key}": x for key, x in content[1].items()}
    return tensors, metadata


@settings(max_examples=30, deadline=None)
@given(
    ranks=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    dtype=st.sampled_from(["f4", "f2", "f8"]),
    alphas=st.lists(st.floats(-64, 64).filter(lambda a: abs(a) > 1e-3), min_size=1, max_size=4),
    parts=st.sampled_from(
        [("unet.",), ("text_encoder.",), ("text_encoder_2.",), ("unet.", "text_encoder.", "text_encoder_2.")]
    ),
)
def test_any_ranks_and_alphas_survive(ranks, alphas, dtype, parts):
    text = f"text_model.{LAYER}"
    names = [f"unet.{PATH}", "unet.conv_in", "unet.down_blocks.0.resnets.0.conv1", f"text_encoder.{text}"]
    names += [f"text_encoder_2.{text}", "text_encoder_2.text_projection", f"text_encoder.{text.replace('0', '1')}"]
    before = random_adapter(
        "sdxl", [n for n in names if n.startswith(parts)], ranks=tuple(ranks), alphas=tuple(alphas), dtype=dtype
    )
    tensors, metadata = contents(peft.encode(before, Context.of(before)))
    assert sniff(tensors, metadata) == "peft"
    after = checked(decode(tensors, metadata, "folder"), "folder")
    assert after.modules.keys() == before.modules.keys()
    assert max(relative_error(delta, after.modules[name]) for name, delta in before.modules.items()) < 1e-6


# PEFT itself


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make(tmp_path_factory.mktemp("models") / "sdxl", "sdxl")


def merged(part: str, loaded: PeftModel, base: Weights) -> Weights:
    """What PEFT adds to each weight."""
    after = weights(loaded.merge_and_unload(), part)
    return {name: after[name] - w for name, w in base.items()}


@pytest.mark.parametrize("part", CLASSES)
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("ranks", [(4,), (4, 6, 2)])
def test_peft_applies_every_module_of_our_folders(model, tmp_path, part, dora, ranks):
    module = CLASSES[part].from_pretrained(model / part)
    base = weights(module, part)
    adapter = random_for(base, base, ranks, alphas=(4.0, -1.5, 3.0, 0.1), dora=dora)
    written = peft.encode(adapter, Context())
    assert written.losses == ()
    loaded = PeftModel.from_pretrained(module, save(tmp_path, written))
    got = merged(part, loaded, base)
    assert wrong(adapter, got, base) == []
    assert len(got) == {"unet": 125, "text_encoder": 12, "text_encoder_2": 13}[part]
    assert files.read(tmp_path).modules.keys() == adapter.modules.keys()


@pytest.mark.parametrize("part", CLASSES)
def test_peft_applies_our_folders_of_several_parts(model, tmp_path, part):
    bases = {each: weights(CLASSES[each].from_pretrained(model / each), each) for each in CLASSES}
    adapter = random_for(whole := {n: w for base in bases.values() for n, w in base.items()}, whole, (4, 2))
    save(tmp_path, peft.encode(adapter, Context()))
    loaded = PeftModel.from_pretrained(CLASSES[part].from_pretrained(model / part), tmp_path / part)
    mine = Adapter(modules={name: delta for name, delta in adapter.modules.items() if name in bases[part]})
    assert wrong(mine, merged(part, loaded, bases[part]), bases[part]) == []
    assert files.read(tmp_path).modules.keys() == adapter.modules.keys()


@pytest.mark.parametrize("part", CLASSES)
@pytest.mark.parametrize(
    "fields",
    [
        {"lora_alpha": 6},
        {"lora_alpha": 6, "use_rslora": True},
        {"rank_pattern": {"q_proj": 2, "to_q": 3}, "alpha_pattern": {"^mid_block.*": 3, r"layers\.1.*": 12}},
        {"use_dora": True, "lora_alpha": 3},
    ],
)
def test_we_read_what_peft_saves(model, tmp_path, part, fields):
    module = CLASSES[part].from_pretrained(model / part)
    base = weights(module, part)
    targets = ("to_q", "to_k", "conv1", "q_proj", "fc2")
    trained = get_peft_model(module, LoraConfig(r=4, target_modules=list(targets), init_lora_weights=False, **fields))
    for name, parameter in trained.named_parameters():
        if "magnitude" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    trained.save_pretrained(tmp_path / part)
    read = files.read(tmp_path).materialised()  # in a folder of its part, so the small widths need not tell
    assert read.modules.keys() == {name for name in base if name.endswith(targets)}
    assert {type(delta) for delta in read.modules.values()} == {DoRA if "use_dora" in fields else LowRank}
    assert wrong(read, merged(part, trained, base), base) == []


KINDS = {
    "loha": lambda effective: LoHaConfig(r=4, alpha=3, use_effective_conv2d=effective),
    "lokr": lambda effective: LoKrConfig(r=3, alpha=2, decompose_both=effective, use_effective_conv2d=effective),
    "lokr, whole": lambda effective: LoKrConfig(r=64, alpha=2, use_effective_conv2d=effective),
    "turned": lambda effective: OFTConfig(oft_block_size=8, use_cayley_neumann=effective),
    "turned, shared": lambda effective: OFTConfig(
        oft_block_size=16, block_share=True, num_cayley_neumann_terms=2 + effective
    ),
}


@pytest.mark.parametrize("effective", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_pefts_other_kinds_are_read_as_it_applies_them(tmp_path, kind, effective):
    unet = UNet2DConditionModel.from_pretrained(make(tmp_path / "model", "sd1") / "unet")
    config = KINDS[kind](effective)
    config.target_modules = {"to_q", "conv1"}
    model = get_peft_model(unet, config)
    draw = torch.Generator().manual_seed(0)
    for parameter in (one for one in model.parameters() if one.requires_grad):
        parameter.data = torch.randn(parameter.shape, generator=draw) * 0.1
    model.save_pretrained(tmp_path / "a")
    read = files.read(tmp_path / "a")
    before = {n: m.base_layer.weight.detach().clone() for n, m in unet.named_modules() if hasattr(m, "base_layer")}
    model.merge_adapter()
    assert read.modules.keys() == {f"unet.{name}" for name in before} and len(before) == 16
    for name, base in before.items():
        change = unet.get_submodule(name).base_layer.weight.detach() - base
        delta = read.modules[f"unet.{name}"]
        assert delta.kind == kind.partition(",")[0]
        torch.testing.assert_close(torch.as_tensor(delta.delta(base)).reshape(base.shape), change, rtol=1e-3, atol=1e-5)


def test_an_oft_without_its_settings_is_a_fault():
    key = f"base_model.model.{PATH}.oft_R.weight"
    (fault,) = decode({key: np.ones((2, 6), "f4")}, {}, "folder").faults
    assert fault.startswith(key) and "adapter_config.json" in fault
