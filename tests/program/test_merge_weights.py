"""merge, extract and compose through the program."""

import json

import pytest
import torch

from lorakit.adapter import Adapter
from lorakit.deltas.low_rank import LowRank
from lorakit.formats import writing
from tests.support import plain

NAME = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OTHER = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v"


def make(file, seed, out=64, rank=4, names=(NAME,)):
    draw = torch.Generator().manual_seed(seed)
    modules = {
        name: LowRank(torch.randn(rank, 64, generator=draw), torch.randn(out, rank, generator=draw), 2.0)
        for name in names
    }
    writing.save(file, Adapter(modules=modules), "kohya")
    return modules


def test_alpha_mixes_the_products(json_of, tmp_path):
    a, b = make(tmp_path / "a.safetensors", 1), make(tmp_path / "b.safetensors", 2, rank=3, names=(NAME, OTHER))
    done = json_of("merge", "a.safetensors", "b.safetensors", "--alpha", "0.6")
    merged = plain.load(tmp_path / "merged.safetensors").modules
    torch.testing.assert_close(
        merged[NAME].delta(), 0.6 * a[NAME].delta() + 0.4 * b[NAME].delta(), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(merged[OTHER].delta(), 0.4 * b[OTHER].delta(), rtol=1e-5, atol=1e-5)
    assert done["ranks"] == {NAME: 7, OTHER: 3} and done["error"] == 0


def test_weights_may_be_negative_and_cancel(json_of, program, tmp_path):
    a = make(tmp_path / "a.safetensors", 1)
    json_of("merge", "a.safetensors:2", "a.safetensors:-0.5", "-o", "m.safetensors")
    torch.testing.assert_close(
        plain.load(tmp_path / "m.safetensors").modules[NAME].delta(), 1.5 * a[NAME].delta(), rtol=1e-5, atol=1e-4
    )


def test_rank_takes_the_optimum_and_states_the_error(json_of, tmp_path):
    a, b = make(tmp_path / "a.safetensors", 1), make(tmp_path / "b.safetensors", 2)
    done = json_of("merge", "a.safetensors", "b.safetensors", "--weights", "1,1", "--rank", "4")
    whole = a[NAME].delta() + b[NAME].delta()
    values = torch.linalg.svdvals(whole)
    best = float((values[4:].square().sum() / values.square().sum()).sqrt())
    assert done["error"] == pytest.approx(best, rel=1e-3)


def test_adapters_of_different_shapes_are_refused(program, tmp_path):
    make(tmp_path / "a.safetensors", 1)
    make(tmp_path / "b.safetensors", 2, out=128)
    assert "different base models" in program("merge", "a.safetensors", "b.safetensors", status=3).stderr


def test_merging_twice_gives_the_same_bytes(program, tmp_path):
    make(tmp_path / "a.safetensors", 1)
    make(tmp_path / "b.safetensors", 2)
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        program("merge", "a.safetensors", "b.safetensors", "-o", f"{name}/m.safetensors")
    assert (tmp_path / "x/m.safetensors").read_bytes() == (tmp_path / "y/m.safetensors").read_bytes()


def test_a_recipe_is_read_wherever_an_adapter_is(program, json_of, tmp_path):
    a = make(tmp_path / "a.safetensors", 1)
    make(tmp_path / "b.safetensors", 2)
    program("compose", "a.safetensors:0.5", "b.safetensors:0", "-o", "sub/recipe.toml", status=0)
    json_of("merge", "sub/recipe.toml:2", "b.safetensors:0", "-o", "m.safetensors")
    torch.testing.assert_close(
        plain.load(tmp_path / "m.safetensors").modules[NAME].delta(), a[NAME].delta(), rtol=1e-5, atol=1e-5
    )
    make(tmp_path / "a.safetensors", 3)
    assert "sha256" in program("sample", "x", "--recipe", "sub/recipe.toml", status=3).stderr


def test_an_unknown_key_of_a_recipe_is_an_error(program, tmp_path):
    make(tmp_path / "a.safetensors", 1)
    (tmp_path / "r.toml").write_text('lorakit = 1\n[[adapter]]\npath = "a.safetensors"\nwieght = 2\n')
    assert "wieght" in program("compose", "r.toml", "-o", "x.toml", status=3).stderr


def test_extract_re_ranks_an_adapter_to_the_optimum(json_of, tmp_path):
    a = make(tmp_path / "a.safetensors", 1)
    done = json_of("extract", "a.safetensors", "--rank", "2")
    values = torch.linalg.svdvals(a[NAME].delta())[:4]
    kept = float(values[:2].square().sum() / values.square().sum())
    assert done["ranks"] == {NAME: 2} and done["energy_kept"]["mean"] == pytest.approx(kept, rel=1e-4)


def test_an_adapter_that_fits_nothing_is_refused(program, tmp_path):
    module = {"unet.down_blocks.3.attentions.0.proj_in": LowRank(torch.ones(1, 8), torch.ones(8, 1), 1.0)}
    writing.save(tmp_path / "a.safetensors", Adapter(modules=module), "kohya")
    assert "no effect" in program("sample", "x", "--lora", "a.safetensors", status=3).stderr
    make(tmp_path / "b.safetensors", 1, out=32)
    assert "another base model" in program("sample", "x", "--lora", "b.safetensors", status=3).stderr


def test_sample_writes_its_settings_into_the_picture(program, tmp_path):
    from PIL import Image

    make(tmp_path / "a.safetensors", 1)
    program("sample", "a cat", "--lora", "a.safetensors:0.01", "--steps", 2, "-n", 2, "--negative", "dog", "--seed", 5)
    text = Image.open(tmp_path / "samples" / "00001.png").text
    assert json.loads(text["lorakit"])["seed"] == 6
    assert text["parameters"].startswith(
        "a cat\nNegative prompt: dog\nSteps: 2, Sampler: DPM++ 2M, CFG scale: 7.5, Seed: 6"
    )
    first = (tmp_path / "samples" / "00000.png").read_bytes()
    program("sample", "a cat", "--steps", 2)  # numbers on
    assert (tmp_path / "samples" / "00002.png").exists()
    assert (tmp_path / "samples" / "00000.png").read_bytes() == first
