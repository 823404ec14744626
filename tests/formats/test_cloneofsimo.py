"""cloneofsimo's numbered modules: every one by name, in real files too."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.adapter import Adapter
from lorakit.delta import relative_error
from lorakit.deltas.low_rank import LowRank
from lorakit.errors import InputError
from lorakit.families import table
from lorakit.formats import files
from lorakit.formats.adapters import checked, cloneofsimo, decode
from lorakit.formats.adapters.cloneofsimo import text_order, unet_order
from lorakit.formats.codec import Context, flat
from tests.support.adapter_files import random_adapter

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures" / "cloneofsimo"
with_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"no {FIXTURES}")
BLOCK = "unet.down_blocks.0.attentions.0.transformer_blocks.0"


def pairs(names, weights, rank: int = 1) -> list[np.ndarray]:
    """[up0, down0, ...] in which the product's numbers are the module's number."""
    listed = []
    for i, name in enumerate(names):
        out, width, *kernel = weights[name]
        listed += [np.full((out, rank, *[1 for _ in kernel]), i / rank, "f2"), np.ones((rank, width, *kernel), "f2")]
    return listed


def flat_list(arrays, prefix: str = "") -> dict[str, np.ndarray]:
    return {f"{prefix}{i}": x for i, x in enumerate(arrays)}


def numbers(adapter: Adapter) -> dict[str, float]:
    """Module to its number, which is all of its delta: up and down are constant, and rank many are added."""
    return {name: float(delta.up.flat[0] * delta.rank) for name, delta in adapter.modules.items()}


@with_fixtures
def test_the_order_is_the_one_that_diffusers_0_14_had():
    known = json.loads((FIXTURES / "unet_order_sd15_diffusers_le_0.14.json").read_text())
    assert [f"unet.{path}" for path in known] == list(unet_order())


def test_the_later_order_is_the_one_that_diffusers_has():
    """cloneofsimo's own rule, over today's model: linear modules within Attention and GEGLU, in turn."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
    order = [
        f"unet.{path}.{inner}"
        for path, module in unet.named_modules()
        if type(module).__name__ in ("Attention", "GEGLU")
        for inner, leaf in module.named_modules()
        if isinstance(leaf, torch.nn.Linear)
    ]
    assert order == list(unet_order(old=False))


def test_convolutions_stand_where_diffusers_builds_them():
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
    order = [
        f"unet.{path}.{inner}"
        for path, module in unet.named_modules()
        if type(module).__name__ in ("Attention", "GEGLU", "ResnetBlock2D")
        for inner, leaf in module.named_modules()
        if isinstance(leaf, kinds)
    ]
    assert order == list(unet_order(old=False, convolutions=True)) and len(order) == 224


@pytest.mark.parametrize("family", ["sd1", "sd2"])
@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize(
    ("units", "convolutions", "count"), [(True, False, 144), (False, False, 128), (True, True, 224)]
)
def test_a_list_is_put_in_order_by_its_shapes(family, old, units, convolutions, count):
    order = unet_order(old, units, convolutions)
    adapter = checked(decode(flat_list(pairs(order, table(family), rank=2)), {}, "file"), "file")
    assert adapter.format == "cloneofsimo" and len(order) == count
    assert numbers(adapter) == {name: i for i, name in enumerate(order)}


@pytest.mark.parametrize(("width", "layers"), [(768, 12), (1024, 23)])
def test_a_bare_list_of_a_text_encoder_is_told_by_its_shapes(width, layers):
    order = text_order(4 * layers)
    adapter = checked(decode(flat_list(pairs(order, dict.fromkeys(order, (width, width)))), {}, "file"), "file")
    assert numbers(adapter) == {name: i for i, name in enumerate(order)}
    layer = "text_encoder.text_model.encoder.layers.1.self_attn"
    assert list(adapter.modules)[4:8] == [f"{layer}.{name}_proj" for name in ("k", "v", "q", "out")]


def test_sidecars_go_with_their_list():
    order, texts = unet_order(), text_order(48)
    tensors = flat_list(pairs(order, table("sd1"))) | flat_list(pairs(texts, table("sd1")), "text_encoder/")
    adapter = checked(decode({**tensors, "ti/<krk>": np.ones(768, "f4")}, {}, "file"), "file")
    assert numbers(adapter) == {name: i for each in (order, texts) for i, name in enumerate(each)}
    assert adapter.embeddings["<krk>"]["text_encoder"].shape == (1, 768)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: flat_list(list(t.values())[: 2 * 63]), "unet: 63 modules are of no UNet whose order is known"),
        (lambda t: {**t, "8": np.ones((320, 1), "f2")}, "unet: the shapes of its 144 modules are of no UNet"),
        (lambda t: {**t, "600": np.ones((320, 1), "f2")}, "unet: the numbers of its 145 modules have gaps"),
        (lambda t: {**t, "999999999999": np.ones((320, 1), "f2")}, "have gaps"),
        (lambda t: {**t, "vae:0:up": np.ones((2, 1)), "vae:0:down": np.ones((1, 2))}, "vae: cloneofsimo files number"),
        (lambda t: {k: x for k, x in t.items() if k != "3"}, "2: lora_down.weight is missing"),
    ],
)
def test_a_list_that_no_known_model_gives_is_a_fault(change, words):
    faults = decode(change(flat_list(pairs(unet_order(), table("sd1")))), {}, "file").faults
    assert any(words in fault for fault in faults)


def test_a_file_of_unknown_order_keeps_its_numbers():
    adapter = decode(flat_list(pairs(unet_order(), table("sd1"))[:126]), {}, "file")
    assert list(adapter.modules)[:2] == ["unet:0", "unet:1"] and "--model" in adapter.faults[0]


# Writing


def test_every_number_is_written_and_the_rest_named():
    adapter = random_adapter(
        "sd1", [f"{BLOCK}.attn2.to_k", "unet.conv_in", f"{BLOCK}.ff.net.2"], ranks=(3,), alphas=(6.0,)
    )
    adapter = Adapter(
        modules=adapter.modules,
        metadata={"b": "2", "a": "1", "lora_adapter_metadata": "{}"},
        biases={"unet.conv_in": np.ones(320)},
        embeddings={
            "<s1>": {"text_encoder": np.ones((1, 768), "f4")},
            "<two>": {"text_encoder": np.ones((2, 768), "f4")},
            "<xl>": {"text_encoder": np.ones((1, 768), "f4"), "text_encoder_2": np.ones((1, 1280), "f4")},
        },
        unknown={"x": np.ones(1)},
    )
    written = cloneofsimo.encode(adapter, Context.of(adapter))
    assert [line.partition(":")[0] for line in written.losses] == [
        "unet.conv_in",
        "x",
        "unet.conv_in",
        f"{BLOCK}.ff.net.2",
        "<two>",
        "<xl>",
    ]
    assert {key: x.shape for key, x in written.tensors.items() if not key.startswith("unet")} == {"<s1>": (768,)}
    assert len(written.tensors) == 2 * 144 + 1
    np.testing.assert_allclose(  # number 6 in the order of diffusers 0.14; the scale, 6 / 3, is in the factors
        written.tensors["unet:6:up"] @ written.tensors["unet:6:down"],
        adapter.modules[f"{BLOCK}.attn2.to_k"].delta(),
        rtol=1e-6,
    )
    assert written.tensors["unet:5:up"].shape == (320, 1) and not written.tensors["unet:5:up"].any()
    assert written.tensors["unet:7:down"].shape == (1, 768) and written.tensors["unet:7:down"].dtype == np.float32
    assert list(written.metadata) == sorted(written.metadata)
    assert {key: written.metadata[key] for key in ("a", "b", "<s1>", "unet", "unet:5:rank", "unet:6:rank")} == {
        "a": "1",
        "b": "2",
        "<s1>": "<embed>",
        "unet": '["Attention", "CrossAttention", "GEGLU"]',
        "unet:5:rank": "1",
        "unet:6:rank": "3",
    }
    assert len(written.metadata) == 2 + 1 + 1 + 144


@pytest.mark.parametrize("family", ["sdxl", "tiny"])
def test_other_families_have_no_numbers(family):
    adapter = random_adapter(family, [name for name in table(family) if ".attn1.to_q" in name])
    written = cloneofsimo.encode(adapter, Context.of(adapter))
    assert len(written.losses) == len(adapter.modules) and not written.tensors


def test_cloneofsimos_own_reader_finds_everything():
    """Its parse_safeloras in a few lines: groups by the first word of the key, each with its entry in the metadata."""
    names = [f"{BLOCK}.attn1.to_q", "text_encoder.text_model.encoder.layers.3.self_attn.v_proj"]
    adapter = random_adapter("sd1", names, ranks=(2, 5))
    adapter = Adapter(modules=adapter.modules, embeddings={"<s1>": {"text_encoder": np.ones((1, 768), "f4")}})
    written = cloneofsimo.encode(adapter, Context.of(adapter))
    groups = {key.split(":")[0] for key in written.tensors}
    assert groups == {"unet", "text_encoder", "<s1>"} and all(written.metadata[group] for group in groups)
    for group, classes in (("unet", {"Attention", "CrossAttention", "GEGLU"}), ("text_encoder", {"CLIPAttention"})):
        assert set(json.loads(written.metadata[group])) == classes
        indices = {int(key.split(":")[1]) for key in written.tensors if key.startswith(f"{group}:")}
        assert indices == set(range({"unet": 144, "text_encoder": 48}[group]))
        for i in indices:
            assert written.tensors[f"{group}:{i}:down"].shape[0] == int(written.metadata[f"{group}:{i}:rank"])


@settings(max_examples=15, deadline=None)
@given(
    ranks=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    dtype=st.sampled_from(["f4", "f2", "f8"]),
    alphas=st.lists(st.floats(-64, 64).filter(lambda a: abs(a) > 1e-3), min_size=1, max_size=3),
    family=st.sampled_from(["sd1", "sd2"]),
    seed=st.integers(0, 9),
)
def test_any_ranks_and_alphas_survive(ranks, alphas, dtype, family, seed):
    draw = np.random.default_rng(seed)
    names = [
        f"{BLOCK}.attn2.to_k",
        *draw.choice(unet_order(), 3, replace=False),
        *draw.choice(text_order(48), 2, replace=False),
    ]
    before = random_adapter(
        family, dict.fromkeys(names), ranks=tuple(ranks), alphas=tuple(alphas), seed=seed, dtype=dtype
    )
    written = cloneofsimo.encode(before, Context.of(before))
    assert written.losses == ()
    after = checked(decode(written.tensors, written.metadata, "file"), "file")
    assert after.metadata == {}
    assert {name for name, delta in after.modules.items() if delta.norm()} == before.modules.keys()
    assert max(relative_error(delta, after.modules[name]) for name, delta in before.modules.items()) < 1e-6


def test_torch_tensors_are_written_as_they_are():
    low = LowRank(torch.ones(2, 320, dtype=torch.bfloat16), torch.ones(320, 2, dtype=torch.bfloat16), 2.0)
    cross = LowRank(torch.ones(2, 768, dtype=torch.bfloat16), torch.ones(320, 2, dtype=torch.bfloat16), 2.0)
    adapter = Adapter(modules={f"{BLOCK}.attn1.to_q": low, f"{BLOCK}.attn2.to_k": cross})
    written = cloneofsimo.encode(adapter, Context.of(adapter))
    assert {x.dtype for x in written.tensors.values()} == {torch.bfloat16}


# Real files


@with_fixtures
@pytest.mark.parametrize(
    ("name", "family", "unet", "text", "tokens"),
    [
        ("lora_disney.safetensors", "sd1", 144, 48, {"<s1>", "<s2>"}),
        ("lora_disney.pt", "sd2", 128, 0, set()),
        ("lora_illust.pt", "sd2", 128, 0, set()),
        ("lora_kiriko.pt", "sd2", 128, 92, set()),  # with its sidecar
        ("lora_kiriko.text_encoder.pt", "sd2", 0, 92, set()),
    ],
)
def test_a_real_file_is_read_whole(name, family, unet, text, tokens):
    adapter = files.read(FIXTURES / name)
    parts = [module.partition(".")[0] for module in adapter.modules]
    assert (parts.count("unet"), parts.count("text_encoder")) == (unet, text)
    weights = table(family)
    assert all(flat(delta.shape) == flat(weights[module]) for module, delta in adapter.modules.items())
    assert adapter.embeddings.keys() == tokens and not adapter.unknown and not adapter.faults
    assert all(by["text_encoder"].shape == (1, 768) for by in adapter.embeddings.values())
    known = json.loads((FIXTURES / "unet_order_sd15_diffusers_le_0.14.json").read_text())
    ours = [module.removeprefix("unet.") for module in adapter.modules if module.startswith("unet.")]
    assert sorted(ours) == sorted(path for path in known if unet != 128 or ".ff." not in path) * bool(unet)


@with_fixtures
def test_lists_of_december_2022_never_trained_their_outputs():
    """Their to_out was never called, so all 32 are zero: that they come out by name shows the order right."""
    adapter = files.read(FIXTURES / "lora_disney.pt")
    assert {name for name, delta in adapter.modules.items() if not delta.norm()} == {
        name for name in adapter.modules if name.endswith("to_out.0")
    }


@with_fixtures
def test_a_real_file_is_written_back_tensor_by_tensor():
    file = FIXTURES / "lora_disney.safetensors"
    tensors, metadata = files.contents(file)
    adapter = files.read(file)
    written = cloneofsimo.encode(adapter, Context.of(adapter))
    assert written.losses == () and written.tensors.keys() == tensors.keys()
    for key, x in tensors.items():
        np.testing.assert_array_equal(written.tensors[key].float(), x.float())
    classes = {part: set(json.loads(metadata.pop(part))) for part in ("unet", "text_encoder")}  # in any order
    assert classes == {part: set(json.loads(written.metadata.pop(part))) for part in classes}
    assert metadata == written.metadata


def test_a_list_in_json_is_a_list(tmp_path):
    weights = table("sd1")
    names = text_order(48)
    listed = [x.tolist() for x in pairs(names, dict.fromkeys(weights | dict.fromkeys(names), (8, 8)))]
    (tmp_path / "lora.json").write_text(json.dumps(listed))
    adapter = files.look(tmp_path / "lora.json")
    assert adapter.format == "cloneofsimo" and adapter.faults == ()
    assert numbers(adapter) == {name: i for i, name in enumerate(names)}


@pytest.mark.parametrize("text", ["{}", "[]", "[1, 2]", "[[[1], [2, 3]]]", '[[["a"]]]', "[[[1]]", "[" * 100])
def test_json_that_is_no_list_of_matrices_is_named(tmp_path, text):
    (tmp_path / "lora.json").write_text(text)
    with pytest.raises(InputError, match=r"lora\.json"):
        files.look(tmp_path / "lora.json")
