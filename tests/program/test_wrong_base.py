"""An adapter of another family is told as one, wherever it meets a model, before any work."""

import pytest

from lorakit.formats import writing
from lorakit.formats.bases import families_of
from tests.conftest import captioned
from tests.support.adapter_files import attention, random_adapter


def text_encoder(name: str) -> bool:
    return name.startswith("text_encoder.") and "self_attn" in name


@pytest.fixture
def files(tmp_path):
    """Adapters of SDXL, SD1, SD2 and tiny, by file; and pictures."""
    for family, name in (("sdxl", "xl"), ("sd1", "one"), ("sd2", "two"), ("tiny", "ours")):
        writing.save(tmp_path / f"{name}.safetensors", random_adapter(family, attention, ranks=(1,)), "kohya")
    captioned(tmp_path / "data", "a thing")
    return tmp_path


TAKE = "xl.safetensors is for SDXL, the model is tiny: take {} sdxl"


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["sample", "x", "--steps", 1, "--lora", "xl.safetensors"], "--model"),
        (["sample", "x", "--steps", 1, "--recipe", "r.toml"], "--model"),
        (["sample", "x", "--steps", 1, "--grid", "x:lora=ours.safetensors,xl.safetensors"], "--model"),
        (["merge", "xl.safetensors", "--into", "tiny", "-o", "m"], "--into"),
        (["merge", "xl.safetensors", "--into", "tiny", "-o", "m", "--rank", 1], "--into"),
        (["merge", "xl.safetensors", "xl.safetensors", "--base", "tiny"], "--base"),
        (["compose", "xl.safetensors", "--learn", "data", "-o", "r2.toml"], "--model"),
        (["train", "data", "--init-from", "xl.safetensors"], "--model"),
        (
            ["convert", "xl.safetensors", "o.safetensors", "--to", "kohya", "--approximate", 1, "--base", "tiny"],
            "--base",
        ),
    ],
)
def test_an_adapter_of_another_family_says_which_model_to_take(program, files, command, option):
    if "r.toml" in command:
        program("compose", "xl.safetensors", "-o", "r.toml", "-q")
    before = sorted(path.name for path in files.iterdir())
    said = program(*command, status=3).stderr
    assert TAKE.format(option) in said
    assert sorted(path.name for path in files.iterdir()) == before


def test_all_wrong_ones_are_named_together(program, files):
    said = program(
        "sample", "x", "--lora", "xl.safetensors", "--lora", "ours.safetensors", "--lora", "two.safetensors", status=3
    )
    assert "xl.safetensors is for SDXL; two.safetensors is for SD2, the model is tiny" in said.stderr


@pytest.mark.parametrize("bake", [["-o", "r.toml"], ["--bake", "-o", "b.safetensors"]])
def test_adapters_of_two_families_are_not_composed(program, files, bake):
    said = program("compose", "xl.safetensors", "ours.safetensors", *bake, status=3).stderr
    assert "xl.safetensors is for sdxl, ours.safetensors for tiny" in said


def test_learned_tokens_are_told_by_their_widths(program, files):
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"clip_l": np.ones((1, 768), "f4"), "clip_g": np.ones((1, 1280), "f4")}, files / "word.safetensors")
    said = program("sample", "x", "--lora", "word.safetensors", status=3).stderr
    assert "word.safetensors is for SDXL, the model is tiny: take --model sdxl" in said


def test_what_several_families_have_is_for_all_of_them():
    assert families_of(random_adapter("sdxl", text_encoder, ranks=(1,))) == ["sd1", "sdxl"]
    assert families_of(random_adapter("sd2", lambda name: ".attn1.to_q" in name, ranks=(1,))) == ["sd1", "sd2"]
    assert families_of(random_adapter({"unet.nothing": (5, 7)}, ranks=(1,))) == []


def test_a_text_encoders_adapter_goes_with_every_family_that_has_it(program, files):
    writing.save(files / "te.safetensors", random_adapter("sd1", text_encoder, ranks=(1,)), "lorakit")
    program("merge", "te.safetensors", "xl.safetensors", "-o", "both.safetensors", "-q")
    assert "te.safetensors is for SD1 or SDXL" in program("sample", "x", "--lora", "te.safetensors", status=3).stderr
