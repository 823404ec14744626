"""diffusers' files: what they mean, and that diffusers itself makes the same of ours."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.adapter import Adapter
from lorakit.delta import relative_error
from lorakit.deltas.dora import DoRA
from lorakit.deltas.loha import LoHa
from lorakit.deltas.low_rank import LowRank
from lorakit.formats import files
from lorakit.formats.adapters import checked, decode, diffusers, diffusers_old, sniff
from lorakit.formats.codec import Context
from tests.support.adapter_files import random_adapter
from tests.support.pipelines import base_of, effect, pipeline, random_for, save, wrong

ATTENTION = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"
QUERY = f"{ATTENTION}.to_q"
TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"


def pair(
    stem: str, rank: int = 2, out: int = 3, width: int = 5, down: str = "lora_A.weight", up: str = "lora_B.weight"
):
    """Factors of ones: every number of the delta is rank * scale."""
    return {f"{stem}.{down}": np.ones((rank, width), "f4"), f"{stem}.{up}": np.ones((out, rank), "f4")}


def described(**fields) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps({key.replace("__", "."): value for key, value in fields.items()})}


def value(adapter: Adapter, module: str) -> float:
    """The one number that the module's delta is made of."""
    numbers = np.unique(np.asarray(adapter.modules[module].delta()))
    assert len(numbers) == 1
    return float(numbers[0])


def test_without_settings_the_scale_is_1():
    adapter = checked(decode(pair(QUERY), {"format": "pt"}, "file"), "file")
    assert adapter.format == "diffusers" and value(adapter, QUERY) == 2


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"unet__r": 2, "unet__lora_alpha": 4}, 4),  # 2 * 4 / 2
        ({"unet__r": 2, "unet__lora_alpha": 4, "unet__use_rslora": True}, 2 * 4 / 2**0.5),
        ({"unet__r": 8, "unet__lora_alpha": 8, "unet__rank_pattern": {"to_q": 2}}, 2 * 8 / 2),
        ({"unet__r": 2, "unet__lora_alpha": 2, "unet__alpha_pattern": {"attn1.to_q": 6}}, 6),
        ({"unet__r": 2, "unet__lora_alpha": 2, "unet__alpha_pattern": {"^attn1.to_q": 6}}, 2),  # anchored: no match
        ({"unet__r": 2, "unet__lora_alpha": 2, "unet__alpha_pattern": {f"^{QUERY.removeprefix('unet.')}": 6}}, 6),
        ({"unet__r": 2, "unet__lora_alpha": 2, "unet__alpha_pattern": {r".*attn\d\.to_(q|k)": 10, "to_q": 6}}, 10),
        ({"unet__r": 2, "unet__lora_alpha": 2, "unet__alpha_pattern": {"o_q": 6}}, 2),  # no whole word
        ({"r": 2, "lora_alpha": 6}, 6),  # save_lora_adapter of one model: no part before the names
        ({"text_encoder__r": 8}, 2),  # says nothing of this part
    ],
)
def test_settings_scale_the_factors(fields, expected):
    adapter = checked(decode(pair(QUERY), described(**fields), "file"), "file")
    assert value(adapter, QUERY) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("spelled", [TEXT, TEXT.replace("text_model.", "")])
@pytest.mark.parametrize(
    "pattern", ["^text_model.encoder.layers.0.self_attn.q_proj", "^encoder.layers.0.self_attn.q_proj"]
)
def test_text_modules_are_one_with_and_without_text_model(spelled, pattern):
    fields = {"text_encoder__r": 2, "text_encoder__lora_alpha": 2, "text_encoder__alpha_pattern": {pattern: 6}}
    adapter = checked(decode(pair(spelled), described(**fields), "file"), "file")
    assert value(adapter, TEXT) == 6


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"unet__r": 4, "unet__lora_alpha": 4}, "its rank is 2, but lora_adapter_metadata says 4"),
        ({"unet__r": 2, "unet__lora_alpha": "4"}, "lora_alpha '4', expected a number"),
        ({"unet__r": 2, "unet__lora_alpha": 0}, "alpha 0"),
        ({"unet__r": 2, "unet__rank_pattern": {"to_(q": 2}}, "no regular expression"),
        ({"unet__r": 2, "unet__rank_pattern": [2]}, "no JSON object"),
        ({"unet__r": 2, "unet__init_lora_weights": "pissa_niter_4"}, "altered the base model"),
        ({"unet__r": 2, "unet__lora_alpha": 2, "unet__use_qalora": True}, "use_qalora is set"),
    ],
)
def test_settings_that_do_not_fit_are_faults(fields, words):
    (fault,) = decode(pair(QUERY), described(**fields), "file").faults
    assert words in fault


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_settings_that_cannot_be_read_are_a_fault(text):
    (fault,) = decode(pair(QUERY), {"lora_adapter_metadata": text}, "file").faults
    assert fault.startswith("lora_adapter_metadata: ")


def test_an_alpha_beside_lora_A_counts_and_must_agree_with_the_settings():
    tensors = pair(QUERY) | {f"{QUERY}.alpha": np.array(6.0, "f4")}
    assert value(checked(decode(tensors, {}, "file"), "file"), QUERY) == 6
    assert decode(tensors, described(unet__r=2, unet__lora_alpha=6), "file").faults == ()
    (fault,) = decode(tensors, described(unet__r=2, unet__lora_alpha=4), "file").faults
    assert "alpha is 6, but the file's settings make it 4" in fault


def test_a_bias_inside_lora_B_is_scaled_with_it():
    tensors = pair(QUERY) | {f"{QUERY}.lora_B.bias": np.ones(3, "f4")}
    adapter = checked(decode(tensors, described(unet__r=2, unet__lora_alpha=6), "file"), "file")
    np.testing.assert_array_equal(adapter.biases[QUERY], [3, 3, 3])  # 6 / 2
    np.testing.assert_array_equal(decode(tensors, {}, "file").biases[QUERY], [1, 1, 1])


@pytest.mark.parametrize("ending", ["lora_magnitude_vector", "lora_magnitude_vector.weight"])
@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3, 3)])
def test_a_magnitude_is_a_dora_by_output(ending, shape):
    out, width, *kernel = shape
    tensors = {
        f"{QUERY}.lora_A.weight": np.ones((2, width, *kernel), "f4"),
        f"{QUERY}.lora_B.weight": np.ones((out, 2, *[1 for _ in kernel]), "f4"),
        f"{QUERY}.{ending}": np.arange(1, 4, dtype="f4").reshape((1, 3, 1, 1) if kernel else 3),  # as PEFT shapes it
    }
    delta = checked(decode(tensors, {}, "file"), "file").modules[QUERY]
    assert isinstance(delta, DoRA) and delta.axis == 0
    assert delta.magnitude.shape == (3, 1, *[1 for _ in kernel])  # of one dimension, kohya's clients misread it
    changed = delta.delta(np.zeros(shape, "f4")).reshape(3, -1)  # W' = m * V / ||V||, so its rows are as long as m
    np.testing.assert_allclose(np.linalg.norm(changed, axis=1), [1, 2, 3], rtol=1e-6)


def test_lycoris_kinds_under_dotted_names_are_read():
    loha = {f"{QUERY}.hada_w{n}_{x}": np.ones((3, 2) if x == "a" else (2, 5), "f4") for n in (1, 2) for x in "ab"}
    full = {f"{ATTENTION}.to_k.diff": np.full((3, 5), 7.0, "f4"), f"{ATTENTION}.to_k.diff_b": np.ones(3, "f4")}
    adapter = checked(decode(loha | full | {f"{QUERY}.alpha": np.array(1.0)}, {}, "file"), "file")
    assert isinstance(adapter.modules[QUERY], LoHa) and value(adapter, QUERY) == 2  # (2 * 2) / 2
    assert value(adapter, f"{ATTENTION}.to_k") == 7 and list(adapter.biases) == [f"{ATTENTION}.to_k"]


@pytest.mark.parametrize("prefix", ["transformer", "prior"])
def test_parts_without_tables_keep_their_names(prefix):
    name = f"{prefix}.transformer_blocks.0.attn.to_out.0"
    adapter = checked(decode(pair(name) | pair(TEXT), {}, "file"), "file")
    assert value(adapter, name) == 2 and value(adapter, TEXT) == 2
    assert diffusers.encode(adapter, Context.of(adapter)).tensors.keys() == (pair(name) | pair(TEXT)).keys()


def test_a_file_without_parts_is_placed_by_the_tables():
    adapter = checked(decode(pair(QUERY.removeprefix("unet.")), {}, "file"), "file")
    assert adapter.format == "diffusers" and value(adapter, QUERY) == 2


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (pair("unet.down_blocks.9.nothing"), "no such module"),
        ({f"{QUERY}.lora_down.weight": np.zeros((2, 5), "f4")}, "a second spelling of"),
        ({f"{ATTENTION}.to_k.lora_A.weight": np.ones((2, 5), "f4")}, "lora_up.weight is missing"),
        ({f"{QUERY}.lora_C.weight": np.ones((2, 5), "f4")}, "unknown tensor lora_C.weight"),
    ],
)
def test_what_does_not_fit_is_a_fault_that_begins_with_its_key(extra, words):
    faults = decode(pair(QUERY) | extra, {}, "file").faults
    assert faults and all(fault.startswith("unet.") for fault in faults) and words in faults[0]


@pytest.mark.parametrize("other", [TEXT.replace("text_model.", ""), f"_orig_mod.{TEXT}", TEXT])
def test_a_module_spelled_in_two_ways_is_one_where_its_tensors_are_equal_and_else_a_fault(other):
    again = pair(other, down="lora_A.dog.weight", up="lora_B.dog.weight")
    adapter = checked(decode(pair(TEXT) | again, {}, "file"), "file")
    assert value(adapter, TEXT) == 2 and adapter.notes and TEXT in adapter.notes[0]
    assert set(adapter.spelled[TEXT]) == {*pair(TEXT), *again}
    again = {key: x * 2 for key, x in again.items()}
    (*_, fault) = decode(pair(TEXT) | again, {}, "file").faults
    assert "a second spelling of" in fault


# The former spellings


OLD = {
    f"{ATTENTION}.processor.to_q_lora.down.weight": f"{ATTENTION}.to_q",
    f"{ATTENTION}.processor.to_out_lora.down.weight": f"{ATTENTION}.to_out.0",
    f"{ATTENTION}.to_k.lora.down.weight": f"{ATTENTION}.to_k",
    f"{ATTENTION}.to_out.0.lora.down.weight": f"{ATTENTION}.to_out.0",
    f"{ATTENTION}.processor.to_out.lora.down.weight": f"{ATTENTION}.to_out.0",  # for ComfyUI
    f"{ATTENTION}.processor.to_q_lora.down.weight".removeprefix("unet."): f"{ATTENTION}.to_q",
    f"{TEXT}.lora_linear_layer.down.weight": TEXT,
    f"{TEXT.removesuffix('q_proj')}to_q_lora.down.weight": TEXT,
    f"{TEXT.removesuffix('q_proj')}to_out_lora.down.weight": f"{TEXT.removesuffix('q_proj')}out_proj",
}


@pytest.mark.parametrize("key", OLD)
def test_former_spellings_name_the_same_modules(key):
    stem, ending = key.removesuffix("down.weight"), ("down.weight", "up.weight")
    tensors = {f"{stem}{ending[0]}": np.ones((2, 5), "f4"), f"{stem}{ending[1]}": np.ones((3, 2), "f4")}
    assert sniff(tensors, {}) == "diffusers-old"
    assert value(checked(decode(tensors, {}, "file"), "file"), OLD[key]) == 2


def test_a_file_of_mixed_spellings_is_read_whole():
    """What diffusers' convert_state_dict_to_diffusers writes: attention in one spelling, the rest in another."""
    names = [name for name in random_adapter("sd1").modules if name.startswith("unet.mid_block")]
    adapter = random_adapter("sd1", names)
    tensors = diffusers.encode(adapter, Context.of(adapter)).tensors
    respelled = {
        key.replace("lora_A", "lora.down").replace("lora_B", "lora.up") if ".attn" in key else key: x
        for key, x in tensors.items()
    }
    assert sniff(respelled, {}) == "diffusers-old"
    read = checked(decode(respelled, {}, "file"), "file")
    assert read.modules.keys() == adapter.modules.keys()
    assert all(relative_error(delta, read.modules[name]) < 1e-6 for name, delta in adapter.modules.items())


# Writing


def test_equal_ranks_are_written_without_settings_and_never_with_stale_ones():
    adapter = random_adapter("sd1", [QUERY, TEXT], ranks=(4,), alphas=(2.0, 8.0))
    stale = {**described(unet__r=9, unet__lora_alpha=1), "ss_output_name": "x"}
    written = diffusers.encode(Adapter(modules=adapter.modules, metadata=stale), Context.of(adapter))
    assert written.metadata == {"format": "pt", "ss_output_name": "x"} and written.losses == ()


def test_unequal_ranks_are_written_with_settings_for_every_part():
    names = [f"{ATTENTION}.to_q", f"{ATTENTION}.to_k", f"{ATTENTION}.to_v", TEXT]
    adapter = random_adapter("sd1", names, ranks=(4, 4, 2, 3))
    text = diffusers.encode(adapter, Context.of(adapter)).metadata["lora_adapter_metadata"]
    said = json.loads(text)
    path = ATTENTION.removeprefix("unet.")
    assert text == json.dumps(said, sort_keys=True)
    assert said["unet.r"] == said["unet.lora_alpha"] == 4
    assert said["unet.rank_pattern"] == said["unet.alpha_pattern"] == {f"{path}.to_v": 2}
    assert said["unet.target_modules"] == [f"{path}.to_k", f"{path}.to_q", f"{path}.to_v"]
    assert said["text_encoder.r"] == 3 and said["text_encoder.rank_pattern"] == {}
    assert said["text_encoder.target_modules"] == ["encoder.layers.0.self_attn.q_proj"]


def test_what_the_format_cannot_hold_is_named():
    low = LowRank(np.ones((1, 4), "f4"), np.ones((4, 1), "f4"), 1.0)
    ones = np.ones((4, 1), "f4")
    adapter = Adapter(
        modules={
            QUERY: LoHa(ones, ones.T, ones, ones.T, 1.0),
            f"{ATTENTION}.to_k": DoRA(low, np.ones((1, 4), "f4")),  # by input
            f"{ATTENTION}.to_v": low,
            "lora_unet_double_blocks_0": low,
        },
        biases={QUERY: np.ones(4)},
        embeddings={"<s1>": {"text_encoder": np.ones((1, 768))}},
        unknown={"x": np.ones(1)},
    )
    written = diffusers.encode(adapter, Context())
    assert [line.partition(":")[0] for line in written.losses] == [
        QUERY,
        f"{ATTENTION}.to_k",
        "lora_unet_double_blocks_0",
        QUERY,
        "<s1>",
        "x",
    ]
    assert {key.rpartition(".lora_")[0] for key in written.tensors} == {f"{ATTENTION}.to_v"}


def test_dora_is_written_for_whole_parts_only():
    """PEFT turns it on for a part: modules without a magnitude would get one made up."""
    low = LowRank(np.ones((1, 4), "f4"), np.ones((4, 1), "f4"), 1.0)
    dora = DoRA(low, np.ones((4, 1), "f4"))
    mixed = diffusers.encode(Adapter(modules={QUERY: dora, f"{ATTENTION}.to_k": low}), Context())
    assert [line.partition(":")[0] for line in mixed.losses] == [QUERY]
    by_input = DoRA(low, np.ones((1, 4), "f4"))
    mixed = diffusers.encode(Adapter(modules={QUERY: dora, f"{ATTENTION}.to_k": by_input}), Context())
    assert [line.partition(":")[0] for line in mixed.losses] == [f"{ATTENTION}.to_k"]
    whole = diffusers.encode(Adapter(modules={QUERY: dora, TEXT: low}), Context())
    assert whole.losses == () and whole.tensors[f"{QUERY}.lora_magnitude_vector.weight"].shape == (4,)


def test_linear_factors_of_a_convolution_are_shaped_as_its_weight_is():
    name = "unet.down_blocks.0.attentions.0.proj_in"
    adapter = Adapter(modules={name: LowRank(np.ones((2, 320), "f4"), np.ones((320, 2), "f4"), 2.0)})
    shapes = {key: x.shape for key, x in diffusers.encode(adapter, Context.of(adapter, ["sd1"])).tensors.items()}
    assert shapes == {f"{name}.lora_A.weight": (2, 320, 1, 1), f"{name}.lora_B.weight": (320, 2, 1, 1)}


@settings(max_examples=30, deadline=None)
@given(
    ranks=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    dtype=st.sampled_from(["f4", "f2", "f8"]),
    alphas=st.lists(st.floats(-64, 64).filter(lambda a: abs(a) > 1e-3), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_any_ranks_and_alphas_survive(ranks, alphas, dtype, seed):
    names = [QUERY, f"{ATTENTION}.to_k", "unet.conv_in", "unet.down_blocks.0.attentions.0.proj_in", TEXT]
    before = random_adapter("sd1", names, ranks=tuple(ranks), alphas=tuple(alphas), seed=seed, dtype=dtype)
    written = diffusers.encode(before, Context.of(before))
    after = checked(decode(written.tensors, written.metadata, "file"), "file")
    assert after.modules.keys() == before.modules.keys()
    assert max(relative_error(delta, after.modules[name]) for name, delta in before.modules.items()) < 1e-6


# diffusers itself


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("ranks", [(4,), (4, 6, 2)])
def test_diffusers_applies_every_module_of_our_files(models, tmp_path, family, ranks):
    pipe = pipeline(models / family, family)
    base = base_of(pipe)
    adapter = random_for(base, base, ranks, alphas=(4.0, -1.5, 3.0, 0.1))
    file = save(tmp_path, diffusers.encode(adapter, Context(shapes={n: tuple(w.shape) for n, w in base.items()})))
    got = effect(pipe, file, base)
    assert wrong(adapter, got, base) == []
    assert len(got) == {"sd1": 95, "sd2": 95, "sdxl": 150}[family]
    read = files.read(file).materialised()  # and so do we
    assert all(relative_error(delta, read.modules[name]) < 1e-5 for name, delta in adapter.modules.items())


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("ranks", [(4,), (4, 6, 2)])
def test_diffusers_applies_our_dora(models, tmp_path, family, ranks):
    pipe = pipeline(models / family, family)
    base = base_of(pipe)
    adapter = random_for(base, base, ranks, dora=True)
    written = diffusers.encode(adapter, Context())
    assert written.losses == ()
    assert wrong(adapter, effect(pipe, save(tmp_path, written), base), base) == []


def test_we_make_of_old_files_what_diffusers_makes_of_them(models, tmp_path):
    pipe = pipeline(models / "sd1", "sd1")
    base = base_of(pipe)
    attention = [name for name in base if ".attn" in name or ".self_attn." in name]
    adapter = random_for(base, attention)
    tensors = {}
    for name, delta in adapter.modules.items():
        module, _, leaf = name.removesuffix(".0").rpartition(".")
        leaf = leaf.removesuffix("_proj").removeprefix("to_")
        middle = "processor." if name.startswith("unet.") else ""
        for which, x in (("down", delta.down), ("up", delta.up)):
            tensors[f"{module}.{middle}to_{leaf}_lora.{which}.weight"] = x
    read = checked(diffusers_old.decode(tensors, {}), "file")
    assert read.modules.keys() == adapter.modules.keys()
    from safetensors.torch import save_file

    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors")
    assert wrong(read, effect(pipe, tmp_path / "pytorch_lora_weights.safetensors", base), base) == []


def test_we_read_what_diffusers_saves(models, tmp_path):
    """With its settings: alpha and rank by pattern, rank-stabilised, anchored or not."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = pipeline(models / "sd1", "sd1")
    base = base_of(pipe)
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=True,
        target_modules=["to_q", "to_k", "proj_in"],
        rank_pattern={"attn1.to_q": 2},
        alpha_pattern={"^down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": 3, r"mid_block.*to_k": 5},
        init_lora_weights=False,
    )
    pipe.unet.add_adapter(config)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(pipe.unet),
        unet_lora_adapter_metadata=pipe.unet.peft_config["default"].to_dict(),
    )
    read = files.read(tmp_path)
    assert len(read.modules) == 4 * 5  # transformer blocks, each with four projections and its proj_in
    pipe = pipeline(models / "sd1", "sd1")
    assert wrong(read, effect(pipe, tmp_path / "pytorch_lora_weights.safetensors", base), base) == []
