"""An inpainting adapter's first layer meets an ordinary model's, and the other way round."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lorakit.adapter import Adapter
from lorakit.deltas.full import Full
from lorakit.deltas.ia3 import IA3
from lorakit.deltas.low_rank import LowRank
from lorakit.errors import InputError
from lorakit.families import CONV_IN
from lorakit.formats import files, writing
from lorakit.formats.first_layer import fitted
from tests.tiny import make

ORDINARY, INPAINTING = {CONV_IN: (8, 4, 3, 3)}, {CONV_IN: (8, 9, 3, 3)}


def first(inputs: int, seed: int = 0) -> LowRank:
    draw = np.random.default_rng(seed)
    return LowRank(
        draw.standard_normal((2, inputs, 3, 3)).astype("f4"), draw.standard_normal((8, 2, 1, 1)).astype("f4"), 1.0
    )


def dense(adapter: Adapter) -> np.ndarray:
    return np.asarray(adapter.modules[CONV_IN].delta())


@pytest.mark.parametrize("kind", ["low rank", "flat", "full"])
def test_what_it_does_with_the_mask_is_cut_on_request(kind):
    low = first(9)
    delta = {
        "low rank": low,
        "flat": LowRank(low.down.reshape(2, 81), low.up.reshape(8, 2), 1.0),
        "full": Full(low.delta()),
    }[kind]
    adapter, said = Adapter(modules={CONV_IN: delta}), list[str]()
    with pytest.raises(InputError, match=r"x is for inpainting.*--cut-inputs"):
        fitted(adapter, ORDINARY, "x", False, said.append)
    made = fitted(adapter, ORDINARY, "x", True, said.append)
    whole = np.asarray(low.delta())
    np.testing.assert_allclose(dense(made), whole[:, :4], rtol=1e-6)
    share = 1 - np.linalg.norm(whole[:, :4]) ** 2 / np.linalg.norm(whole) ** 2
    assert (
        len(said) == 1 and f"5 of the 9 inputs of {CONV_IN} (the mask and the masked picture), {share:.1%}" in said[0]
    )
    assert fitted(adapter, INPAINTING, "x", True, said.append) is adapter and len(said) == 1


def test_an_ordinary_one_acts_on_the_noisy_latents_of_an_inpainting_model():
    said = list[str]()
    made = dense(fitted(Adapter(modules={CONV_IN: first(4)}), INPAINTING, "x", False, said.append))
    np.testing.assert_array_equal(made[:, :4], np.asarray(first(4).delta()))
    assert not made[:, 4:].any() and "noisy latents" in said[0]


def test_a_kind_whose_inputs_do_not_come_apart_is_named():
    odd = Adapter(modules={CONV_IN: IA3(np.ones((8, 1, 1, 1), "f4"), False)})
    assert fitted(odd, ORDINARY, "x", True, print) is odd  # it has no inputs of its own


def test_merge_and_sample_apply_it_where_they_are_asked_to(program, tmp_path):
    make(tmp_path / "sd")
    make(tmp_path / "fill", inputs=9)
    width = load_file(tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"].shape[0]
    low = LowRank(first(9).down, np.ones((width, 2, 1, 1), "f4"), 1.0)
    writing.save(tmp_path / "x.safetensors", Adapter(modules={CONV_IN: low}), "lorakit")
    assert files.read(tmp_path / "x.safetensors").modules[CONV_IN].shape == (width, 9, 3, 3)
    refused = program("merge", "x.safetensors", "--into", "sd", "-o", "m", status=3).stderr
    assert "x.safetensors is for inpainting" in refused and not (tmp_path / "m").exists()
    said = program("merge", "x.safetensors", "--into", "sd", "-o", "m", "--cut-inputs").stderr
    assert "left out: 5 of the 9 inputs" in said
    key, file = "conv_in.weight", "unet/diffusion_pytorch_model.safetensors"
    before, after = (load_file(tmp_path / name / file)[key] for name in ("sd", "m"))
    np.testing.assert_allclose(after - before, np.asarray(low.delta())[:, :4], atol=1e-5)
    program("merge", "x.safetensors", "--into", "fill", "-o", "f")
    before, after = (load_file(tmp_path / name / file)[key] for name in ("fill", "f"))
    np.testing.assert_allclose(after - before, np.asarray(low.delta()), atol=1e-5)
    draw = ["sample", "x", "-m", "sd", "--steps", 1, "--size", 64, "--lora", "x.safetensors", "-o", "p.png"]
    assert "--cut-inputs" in program(*draw, status=3).stderr
    program(*draw, "--cut-inputs")
    assert "for --into MODEL" in program("merge", "x.safetensors", "x.safetensors", "--cut-inputs", status=2).stderr


def test_two_inpainting_models_are_extracted_and_their_adapters_merged(program, tmp_path):
    """fill + 2 * (one - fill) - 0.5 * (two - fill), by way of adapters of full rank, in every format of files."""
    for seed, name in enumerate(("fill", "one", "two")):
        make(tmp_path / name, inputs=9, seed=seed)
    key, file = "conv_in.weight", "unet/diffusion_pytorch_model.safetensors"
    fill, one, two = (load_file(tmp_path / name / file)[key] for name in ("fill", "one", "two"))
    for name in ("one", "two"):
        program("extract", name, "--base", "fill", "--target", "conv_in", "--rank", "full", "-o", f"{name}.safetensors")
    assert files.read(tmp_path / "one.safetensors").modules[CONV_IN].shape == (32, 9, 3, 3)
    for to in ("kohya", "comfy", "diffusers", "lorakit"):
        program("merge", "one.safetensors:2", "two.safetensors:-0.5", "--format", to, "-o", f"{to}.safetensors")
        program("merge", f"{to}.safetensors", "--into", "fill", "-o", to)
        after = load_file(tmp_path / to / file)[key]
        np.testing.assert_allclose(after, fill + 2 * (one - fill) - 0.5 * (two - fill), atol=1e-5)
    make(tmp_path / "sd")
    program("extract", "sd", "--base", "sd", "-o", "x.safetensors", status=3)
    said = program("extract", "one", "--base", "sd", "-o", "x.safetensors", status=3).stderr
    assert "1 weight differs in shape, unet.conv_in: 32x9x3x3 and 32x4x3x3" in said


def inpainting(seed: int) -> dict[str, np.ndarray]:
    """SD1's first layer of 9 inputs, and a module that tells the family."""
    draw = np.random.default_rng(seed)
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    return {
        "lora_unet_conv_in.lora_down.weight": draw.standard_normal((2, 9, 3, 3)).astype("f4"),
        "lora_unet_conv_in.lora_up.weight": draw.standard_normal((320, 2, 1, 1)).astype("f4"),
        f"{key}.lora_down.weight": draw.standard_normal((2, 768)).astype("f4"),
        f"{key}.lora_up.weight": draw.standard_normal((1280, 2)).astype("f4"),
    }


def test_inpainting_adapters_of_sd1_are_told_merged_cut_and_respelled(program, json_of, tmp_path):
    for seed, name in enumerate("ab"):
        save_file(inpainting(seed), tmp_path / f"{name}.safetensors")
    found = json_of("inspect", "a.safetensors")["files"][0]
    assert found["family"] == "sd1" and "as for inpainting" in found["evidence"]
    a, b = (dense(files.read(tmp_path / f"{name}.safetensors")) for name in "ab")
    program("merge", "a.safetensors", "b.safetensors", "--alpha", 0.25, "-o", "m.safetensors")
    np.testing.assert_allclose(dense(files.read(tmp_path / "m.safetensors")), 0.25 * a + 0.75 * b, atol=1e-5)
    program("extract", "m.safetensors", "--rank", 1, "-o", "one.safetensors")
    assert files.read(tmp_path / "one.safetensors").modules[CONV_IN].shape == (320, 9, 3, 3)
    for to in ("comfy", "diffusers", "lorakit"):
        program("convert", "a.safetensors", f"{to}.safetensors", "--to", to)
        np.testing.assert_allclose(dense(files.read(tmp_path / f"{to}.safetensors")), a, atol=1e-6)
    ordinary = {key: x[:, :4] if x.shape[1:] == (9, 3, 3) else x for key, x in inpainting(2).items()}
    save_file(ordinary, tmp_path / "c.safetensors")
    said = program("merge", "c.safetensors", "a.safetensors", "--alpha", 0.5, "-o", "m.safetensors", "-f").stderr
    assert "c.safetensors" in said and "acts on the 4 noisy latents" in said
    c, both = (dense(files.read(tmp_path / f"{name}.safetensors")) for name in "cm")
    np.testing.assert_allclose(both[:, :4], 0.5 * (a[:, :4] + c), atol=1e-5)
    np.testing.assert_allclose(both[:, 4:], 0.5 * a[:, 4:], atol=1e-5)
