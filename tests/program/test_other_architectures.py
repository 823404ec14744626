"""Adapters of models that lorakit does not draw with: merged, extracted, compared and respelled by their names alone."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lorakit.formats import files
from tests.tiny import make

W = 16


def factors(rows: int, inputs: int, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.standard_normal((rank, inputs)).astype("f4"), draw.standard_normal((rows, rank)).astype("f4")


def kohya(modules: dict[str, tuple[int, int]], seed: int = 0, rank: int = 2) -> dict[str, np.ndarray]:
    tensors = {}
    for i, (name, (rows, inputs)) in enumerate(modules.items()):
        down, up = factors(rows, inputs, rank, seed + i)
        tensors |= {
            f"{name}.lora_down.weight": down,
            f"{name}.lora_up.weight": up,
            f"{name}.alpha": np.array(1.0, "f4"),
        }
    return tensors


def dotted(prefix: str, modules: dict[str, tuple[int, int]], seed: int = 0, rank: int = 2) -> dict[str, np.ndarray]:
    tensors = {}
    for i, (name, (rows, inputs)) in enumerate(modules.items()):
        down, up = factors(rows, inputs, rank, seed + i)
        tensors |= {f"{prefix}{name}.lora_A.weight": down, f"{prefix}{name}.lora_B.weight": up}
    return tensors


def deltas(path) -> dict[str, np.ndarray]:
    return {name: np.asarray(delta.delta(), "f8") for name, delta in files.read(path).modules.items()}


FUSED = {
    "double_blocks_0_img_attn_qkv": (3 * W, W),
    "single_blocks_0_linear1": (7 * W, W),
    "double_blocks_0_img_mlp_2": (W, 4 * W),
}
ORIGINAL = {f"lora_unet_{name}": shape for name, shape in FUSED.items()}
SPLIT = {
    "transformer_blocks.0.attn.to_q": (W, W),
    "transformer_blocks.0.attn.to_k": (W, W),
    "transformer_blocks.0.attn.to_v": (W, W),
    "single_transformer_blocks.0.attn.to_v": (W, W),
    "single_transformer_blocks.0.proj_mlp": (4 * W, W),
    "transformer_blocks.0.ff.net.2": (W, 4 * W),
}


@pytest.fixture
def flux(tmp_path):
    """Flux's adapters: a.safetensors of sd-scripts, b.safetensors of diffusers."""
    save_file(kohya(ORIGINAL), tmp_path / "a.safetensors", {"ss_base_model_version": "flux1"})
    save_file(dotted("transformer.", SPLIT, 50), tmp_path / "b.safetensors")
    return tmp_path


def whole(split: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Deltas by diffusers' names as those of the original's weights."""
    zero = np.zeros((W, W))
    block, single = "transformer.transformer_blocks.0.", "transformer.single_transformer_blocks.0."
    return {
        "lora_unet_double_blocks_0_img_attn_qkv": np.concatenate([split[f"{block}attn.to_{x}"] for x in "qkv"]),
        "lora_unet_single_blocks_0_linear1": np.concatenate(
            [*(split.get(f"{single}attn.to_{x}", zero) for x in "qkv"), split[f"{single}proj_mlp"]]
        ),
        "lora_unet_double_blocks_0_img_mlp_2": split[f"{block}ff.net.2"],
    }


def test_fused_and_split_weights_are_merged_in_either_order(program, flux):
    a, b = deltas(flux / "a.safetensors"), whole(deltas(flux / "b.safetensors"))
    wanted = {name: 2 * a[name] - 0.5 * b[name] for name in a}
    program("merge", "a.safetensors:2", "b.safetensors:-0.5", "-o", "ab.safetensors")
    program("merge", "b.safetensors:-0.5", "a.safetensors:2", "-o", "ba.safetensors")
    ab, ba = deltas(flux / "ab.safetensors"), whole(deltas(flux / "ba.safetensors"))
    for name, delta in wanted.items():
        np.testing.assert_allclose(ab[name], delta, atol=1e-5)
        np.testing.assert_allclose(ba[name], delta, atol=1e-5)
    assert "lora_unet_single_blocks_0_linear1.lora_down.weight" in load_file(flux / "ab.safetensors")
    assert "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight" in load_file(flux / "ba.safetensors")


def test_a_conversion_there_and_back_is_exact_and_has_no_more_ranks(program, flux):
    program("convert", "a.safetensors", "d.safetensors", "--to", "diffusers")
    program("convert", "d.safetensors", "k.safetensors", "--to", "kohya")
    program("convert", "a.safetensors", "c.safetensors", "--to", "comfy")
    before = deltas(flux / "a.safetensors")
    for name, delta in deltas(flux / "k.safetensors").items():
        np.testing.assert_array_equal(delta, before[name])
    assert {x.shape for key, x in load_file(flux / "d.safetensors").items() if "lora_A" in key} == {(2, W), (2, 4 * W)}
    assert {x.shape[0] for key, x in load_file(flux / "k.safetensors").items() if "lora_down" in key} == {2}
    assert "diffusion_model.double_blocks.0.img_mlp.2" in {
        key.partition(".lora_")[0] for key in load_file(flux / "c.safetensors")
    }


def test_shift_and_scale_of_the_last_norm_change_places(program, tmp_path):
    save_file(kohya({"lora_unet_final_layer_adaLN_modulation_1": (2 * W, W), **ORIGINAL}), tmp_path / "a.safetensors")
    program("convert", "a.safetensors", "d.safetensors", "--to", "diffusers")
    before = deltas(tmp_path / "a.safetensors")["lora_unet_final_layer_adaLN_modulation_1"]
    np.testing.assert_array_equal(
        deltas(tmp_path / "d.safetensors")["transformer.norm_out.linear"], np.roll(before, W, 0)
    )


# What others write, and what it is.
OTHERS = {
    "z-image": dotted(
        "diffusion_model.", {"layers.0.attention.to_q": (W, W), "layers.0.adaLN_modulation.0": (4 * W, W)}
    ),
    "qwen-image": kohya(
        {"lycoris_transformer_blocks_0_attn_to_q": (W, W), "lycoris_transformer_blocks_0_img_mod_1": (6 * W, W)}
    ),
    "anima": dotted(
        "diffusion_model.", {"blocks.0.cross_attn.output_proj": (W, W), "llm_adapter.blocks.0.mlp.2": (W, 4 * W)}
    ),
    "wan": kohya({"lora_unet_blocks_0_self_attn_q": (W, W), "lora_unet_blocks_0_ffn_0": (4 * W, W)}),
    "sd3": kohya(
        {
            "lora_unet_joint_blocks_0_x_block_attn_qkv": (3 * W, W),
            "lora_te1_text_model_encoder_layers_0_mlp_fc1": (3072, 768),
        }
    ),
    "lumina2": dotted("transformer.", {"layers.0.attn.to_q": (W, W), "layers.0.feed_forward.linear_1": (W, W)}),
    "chroma": dotted(
        "diffusion_model.",
        {"distilled_guidance_layer.layers.0.in_layer": (W, W), "double_blocks.0.img_attn.proj": (W, W)},
    ),
    "hunyuan-video": dotted(
        "diffusion_model.", {"double_blocks.0.img_mlp.fc1": (4 * W, W), "single_blocks.0.modulation.linear": (3 * W, W)}
    ),
    "ltx2": dotted(
        "diffusion_model.", {"transformer_blocks.0.audio_attn1.to_q": (W, W), "transformer_blocks.0.attn1.to_q": (W, W)}
    ),
    None: dotted("diffusion_model.", {"foo.0.bar": (W, W), "foo.1.bar": (W, W)}),
}


@pytest.mark.parametrize("family", OTHERS, ids=str)
def test_it_is_named_merged_extracted_compared_and_swept(program, tmp_path, family):
    save_file(OTHERS[family], tmp_path / "x.safetensors")
    (found,) = json.loads(program("inspect", "x.safetensors", "--json").stdout)["files"]
    assert (found["family"], found["clients"], found["faults"]) == (family, {}, [])
    assert "transformer" in found["components"] and "modules right" not in program("inspect", "x.safetensors").stdout
    program("merge", "x.safetensors", "x.safetensors", "--weights", "1,1", "-o", "two.safetensors")
    before, after = deltas(tmp_path / "x.safetensors"), deltas(tmp_path / "two.safetensors")
    assert len(before) == len(after)
    for one, two in zip(sorted(before), sorted(after), strict=True):
        np.testing.assert_allclose(after[two], 2 * before[one], atol=1e-4)
    program("merge", "x.safetensors", "x.safetensors", "--sweep", "0:1:2", "-o", "s.safetensors")
    program("extract", "x.safetensors", "--rank", "1", "-o", "one.safetensors")
    assert {delta.rank for delta in files.read(tmp_path / "one.safetensors").modules.values()} == {1}
    said = program("inspect", "x.safetensors", "two.safetensors", "--similarity", "--json").stdout
    assert json.loads(said)["similarity"][0]["cosine"] == pytest.approx(1)


def test_what_applies_it_says_what_it_is(program, flux):
    for command in (
        ["sample", "x", "--steps", 1, "--lora", "a.safetensors"],
        ["merge", "a.safetensors", "--into", "tiny", "-o", "m"],
    ):
        assert "a.safetensors is for Flux.1, the model is tiny" in program(*command, status=3).stderr


def test_two_architectures_are_not_merged(program, flux):
    save_file(OTHERS["wan"], flux / "wan.safetensors")
    said = program("merge", "a.safetensors", "wan.safetensors", "-o", "m.safetensors", status=3).stderr
    assert "a.safetensors is for flux1, wan.safetensors for wan" in said


def test_a_key_of_a_known_family_that_is_wrong_is_wrong_still(program, tmp_path):
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file(
        kohya({name: (320, 320), "lora_unet_double_blocks_0_img_attn_qkv": (3 * W, W)}), tmp_path / "x.safetensors"
    )
    said = program("merge", "x.safetensors", "x.safetensors", "-o", "m.safetensors", status=3).stderr
    assert "3 keys are wrong: lora_unet_double_blocks_0_img_attn_qkv" in said


def test_flattened_names_that_no_table_has_cannot_get_their_dots(program, tmp_path):
    save_file(kohya({"lora_unet_foo_0_bar": (W, W), "lora_unet_foo_1_bar": (W, W)}), tmp_path / "x.safetensors")
    said = program("convert", "x.safetensors", "y.safetensors", "--to", "comfy", status=3).stderr
    assert "x.safetensors: lora_unet_foo_0_bar: no table has this module" in said


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("lora_controlnet", "a Control-LoRA"),
        ("image_proj.proj.weight", "an IP-Adapter"),
        ("lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.conditioning1.0.weight", "a ControlNet-LLLite"),
        (
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_custom_diffusion.weight",
            "Custom Diffusion",
        ),
        ("down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight", "AnimateDiff"),
    ],
)
@pytest.mark.parametrize("command", [["inspect"], ["merge", "x.safetensors"], ["convert"]])
def test_other_kinds_of_adapter_are_named_and_refused(program, tmp_path, key, what, command):
    save_file({key: np.zeros((4, 4), "f4")}, tmp_path / "x.safetensors")
    rest = {"merge": ["-o", "m.safetensors"], "convert": ["y.safetensors"], "inspect": []}[command[0]]
    said = program(*command, "x.safetensors", *rest, status=3).stderr
    assert f"x.safetensors is {what}" in said or what in said


def test_what_is_added_to_a_bias_goes_with_its_weight(program, flux):
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    bias, last = np.arange(3 * W, dtype="f4"), np.arange(2 * W, dtype="f4")
    modulation = "lora_unet_final_layer_adaLN_modulation_1"
    tensors = kohya({**ORIGINAL, modulation: (2 * W, W)}) | {f"{name}.diff_b": bias, f"{modulation}.diff_b": last}
    save_file(tensors, flux / "bias.safetensors")
    program(
        "merge", "b.safetensors", "bias.safetensors", "--weights", "0,1", "-o", "m.safetensors", "--format", "lorakit"
    )
    biases = {name: x.float() for name, x in files.read(flux / "m.safetensors").biases.items()}
    for i, x in enumerate("qkv"):
        np.testing.assert_array_equal(
            biases[f"transformer.transformer_blocks.0.attn.to_{x}"], bias[i * W : (i + 1) * W]
        )
    np.testing.assert_array_equal(biases["transformer.norm_out.linear"], np.roll(last, W))
    program("merge", "bias.safetensors", "bias.safetensors", "--alpha", 0.5, "-o", "k.safetensors")
    np.testing.assert_array_equal(load_file(flux / "k.safetensors")[f"{name}.diff_b"], bias)
    program("convert", "bias.safetensors", "c.safetensors", "--to", "comfy")
    np.testing.assert_array_equal(
        files.read(flux / "c.safetensors").biases["diffusion_model.double_blocks.0.img_attn.qkv"].float(), bias
    )


def test_parts_of_it_are_extracted(program, tmp_path):
    save_file(OTHERS["sd3"], tmp_path / "x.safetensors")
    program("extract", "x.safetensors", "--parts", "unet", "-o", "unet.safetensors")
    assert list(deltas(tmp_path / "unet.safetensors")) == ["lora_unet_joint_blocks_0_x_block_attn_qkv"]
    program("extract", "x.safetensors", "--parts", "text_encoder", "-o", "text.safetensors")
    assert "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha" in load_file(tmp_path / "text.safetensors")
    program("merge", "text.safetensors", "unet.safetensors", "--weights", "1,1", "-o", "again.safetensors")
    before, after = deltas(tmp_path / "x.safetensors"), deltas(tmp_path / "again.safetensors")
    assert before.keys() == after.keys()
    for name, delta in before.items():
        np.testing.assert_allclose(after[name], delta, atol=1e-4)


def test_a_model_that_no_table_has_takes_none_either(program, flux):
    make(flux / "sd")
    said = program("sample", "x", "-m", "sd", "--steps", 1, "--lora", "a.safetensors", status=3).stderr
    assert "a.safetensors is for Flux.1" in said


def test_xlabs_processors_are_diffusers_modules(program, tmp_path):
    """One pair of a double block's query, key and value, of a single block's, and their outputs."""
    rows = {
        "double_blocks.0.processor.qkv_lora1": (3 * W, W),
        "double_blocks.0.processor.qkv_lora2": (3 * W, W),
        "double_blocks.0.processor.proj_lora2": (W, W),
        "single_blocks.7.processor.qkv_lora": (3 * W, W),
        "single_blocks.7.processor.proj_lora": (W, 5 * W),
    }
    tensors, whole = {}, {}
    for i, (name, (out, width)) in enumerate(rows.items()):
        down, up = factors(out, width, 2, i)
        tensors |= {f"{name}.down.weight": down, f"{name}.up.weight": up}
        whole[name.replace("processor.", "")] = up.astype("f8") @ down.astype("f8")
    save_file(tensors, tmp_path / "x.safetensors")
    found, block = deltas(tmp_path / "x.safetensors"), "transformer.transformer_blocks.0.attn."
    for i, x in enumerate("qkv"):
        rows_of_x = slice(i * W, (i + 1) * W)
        np.testing.assert_allclose(found[f"{block}to_{x}"], whole["double_blocks.0.qkv_lora1"][rows_of_x], atol=1e-5)
        np.testing.assert_allclose(
            found[f"{block}add_{x}_proj"], whole["double_blocks.0.qkv_lora2"][rows_of_x], atol=1e-5
        )
    np.testing.assert_allclose(found[f"{block}to_add_out"], whole["double_blocks.0.proj_lora2"], atol=1e-5)
    program("convert", "x.safetensors", "k.safetensors", "--to", "kohya")
    program("merge", "x.safetensors", "k.safetensors", "--weights", "2,-1", "-o", "m.safetensors")
    after = deltas(tmp_path / "m.safetensors")
    assert after.keys() - {"transformer.single_transformer_blocks.7.proj_mlp"} == found.keys()
    for name, delta in found.items():
        np.testing.assert_allclose(after[name], delta, atol=1e-4)
    linear1 = deltas(tmp_path / "k.safetensors")["lora_unet_single_blocks_7_linear1"]
    np.testing.assert_allclose(linear1[: 3 * W], whole["single_blocks.7.qkv_lora"], atol=1e-5)
    assert linear1.shape == (7 * W, W) and not linear1[3 * W :].any()
    assert {x.shape[0] for key, x in load_file(tmp_path / "k.safetensors").items() if "down" in key} == {2}


def test_an_xlabs_pair_that_lacks_a_factor_or_has_other_rows_is_named_once(program, tmp_path):
    name = "double_blocks.0.processor.qkv_lora1"
    save_file({f"{name}.down.weight": np.ones((2, W), "f4")}, tmp_path / "x.safetensors")
    said = program("convert", "x.safetensors", "y.safetensors", status=3).stderr
    assert f"1 key is wrong: {name}.down.weight" in said
    odd = {f"{name}.down.weight": np.ones((2, W), "f4"), f"{name}.up.weight": np.ones((3 * W - 1, 2), "f4")}
    save_file(odd, tmp_path / "x.safetensors")
    said = program("convert", "x.safetensors", "y.safetensors", status=3).stderr
    assert f"{name}.up.weight: {3 * W - 1} rows are not those of attn.to_q, attn.to_k, attn.to_v alike" in said


NAMELESS = {
    "flux1": dotted("", {"double_blocks.0.img_attn.qkv": (3 * W, W), "single_blocks.0.linear2": (W, 5 * W)}),
    "qwen-image": {
        key.replace("lora_A", "lora_A.default").replace("lora_B", "lora_B.default"): x
        for key, x in dotted(
            "", {"transformer_blocks.0.attn.to_q": (W, W), "transformer_blocks.0.img_mod.1": (6 * W, W)}
        ).items()
    },
    "wan": kohya({"blocks.0.self_attn.q": (W, W), "blocks.0.ffn.0": (4 * W, W)})
    | {"blocks.0.norm3.diff": np.ones(W, "f4")},
    None: dotted("", {"foo.0.qkv": (W, W)}),
}


@pytest.mark.parametrize("family", NAMELESS, ids=str)
def test_names_without_a_prefix_are_read_and_get_one(program, tmp_path, family):
    save_file(NAMELESS[family], tmp_path / "x.safetensors")
    (found,) = program("inspect", "x.safetensors", "--json").json["files"]
    assert (found["family"], found["kind"], found["faults"]) == (family, "adapter", [])
    said = program("merge", "x.safetensors", "x.safetensors", "--weights", "1,1", "-o", "m.safetensors").stderr
    wanted = "comfy" if family else "diffusers"
    assert f"names without a prefix are not written here; the result is a {wanted} file" in said
    before, after = deltas(tmp_path / "x.safetensors"), deltas(tmp_path / "m.safetensors")
    prefix = "diffusion_model." if family else "transformer."
    assert after.keys() == {f"{prefix}{name}" for name in before}
    for name, delta in before.items():
        np.testing.assert_allclose(after[f"{prefix}{name}"], 2 * delta, atol=1e-4)
    program("convert", "x.safetensors", "d.safetensors", "--to", "diffusers", "--allow-loss")
    assert all(key.startswith("transformer.") for key in load_file(tmp_path / "d.safetensors"))


def test_a_format_that_is_asked_for_gets_the_names_it_has_today(program, tmp_path):
    """Of OneTrainer's names in kohya's file, and of the original's in diffusers'."""
    flat = {f"lora_transformer_{name.replace('.', '_')}": shape for name, shape in SPLIT.items()}
    save_file(kohya(flat), tmp_path / "a.safetensors")
    program("convert", "a.safetensors", "k.safetensors", "--to", "kohya")
    assert deltas(tmp_path / "k.safetensors").keys() == ORIGINAL.keys()
    program("merge", "a.safetensors", "a.safetensors", "--alpha", 0.5, "-o", "own.safetensors")
    assert deltas(tmp_path / "own.safetensors").keys() == flat.keys()
    save_file(dotted("transformer.", {"double_blocks.0.img_attn.proj": (W, W)}), tmp_path / "b.safetensors")
    program("convert", "b.safetensors", "d.safetensors", "--to", "diffusers")
    assert deltas(tmp_path / "d.safetensors").keys() == {"transformer.transformer_blocks.0.attn.to_out.0"}


def test_a_transformer_is_a_part_and_its_blocks_have_names(program, tmp_path):
    modules = {
        "lora_unet_double_blocks_0_img_attn_proj": (W, W),
        "lora_unet_double_blocks_10_img_attn_proj": (W, W),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": (3072, 768),
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q": (W, W),
    }
    save_file(kohya(modules), tmp_path / "a.safetensors")
    (found,) = program("inspect", "a.safetensors", "--json").json["files"]
    assert found["components"] == {"transformer": 2, "text_encoder": 1, "text_encoder_3": 1}
    before = deltas(tmp_path / "a.safetensors")
    for option, wanted in {
        "--part-weights transformer=0.5": (0.5, 0.5, 1.0),
        "--part-weights unet=0.5,text_encoder=3": (0.5, 0.5, 3.0),
        "--part-weights text_encoder_3=2": (1.0, 1.0, 1.0),
        "--block-weights double_blocks.10=0.5": (1.0, 0.5, 1.0),
        "--block-weights double_blocks=0.25": (0.25, 0.25, 1.0),
        "--block-weights double_blocks.0.img_attn=3": (3.0, 1.0, 1.0),
    }.items():
        name, value = option.split(" ")
        program("merge", "a.safetensors", "a.safetensors", "--weights", "1,0", name, value, "-o", "m.safetensors", "-f")
        after = deltas(tmp_path / "m.safetensors")
        for module, factor in zip(
            (
                "lora_unet_double_blocks_0_img_attn_proj",
                "lora_unet_double_blocks_10_img_attn_proj",
                "text_encoder.text_model.encoder.layers.0.mlp.fc1",
            ),
            wanted,
            strict=True,
        ):
            np.testing.assert_allclose(after[module], factor * before[module], atol=1e-4)
    asked = ["merge", "a.safetensors", "a.safetensors", "--alpha", 0.5, "-o", "m.safetensors", "-f"]
    said = program(*asked, "--part-weights", "text_encoder_2=1", status=3).stderr
    assert "part text_encoder_2 (there are modules of text_encoder, text_encoder_3, transformer)" in said
    assert "did you mean 'double_blocks'" in program(*asked, "--block-weights", "doble_blocks=1", status=2).stderr
    program(*asked, "--report", "r.html")
    assert (tmp_path / "r.html").read_text().count("<h2>") == 4  # a part each, and all modules
    for part in ("transformer", "unet"):
        program("extract", "a.safetensors", "--parts", part, "-o", "e.safetensors", "-f")
        assert len(deltas(tmp_path / "e.safetensors")) == 2
    assert (
        "it has transformer, text_encoder, text_encoder_3"
        in program(
            "extract", "a.safetensors", "--parts", "text_encoder_2", "-o", "e.safetensors", "-f", status=3
        ).stderr
    )


def test_a_t5_may_be_called_the_second_text_encoder(program, tmp_path):
    modules = {
        "lora_transformer_transformer_blocks_0_attn_to_q": (W, W),
        "lora_te2_encoder_block_0_layer_0_SelfAttention_q": (W, W),
    }
    save_file(kohya(modules), tmp_path / "a.safetensors")
    (found,) = program("inspect", "a.safetensors", "--json").json["files"]
    assert found["components"] == {"transformer": 1, "text_encoder_2": 1} and found["faults"] == []
    alone = {key: x for key, x in kohya(modules).items() if "te2" in key}
    save_file(alone, tmp_path / "b.safetensors")
    assert program("inspect", "b.safetensors", "--json").json["files"][0]["clients"] == {}
