"""Random models of the families: what works works on them, what does not says so."""

import pytest

from tests.tiny import FAMILIES, make


@pytest.mark.parametrize("family", FAMILIES)
def test_train_and_sample(program, dataset, tmp_path, family):
    model = make(tmp_path / "model", family)
    if family == "sdxl":
        program("sample", "a cat", "-m", model, "--steps", 2, "-o", "one.png", "--size", 64)
        return
    options = ["-m", model, "--steps", 2]
    program("train", dataset, *options, "--batch-size", 2, "--target", "all", "--size", 64)
    done = program("sample", "a cat", *options, "--lora", "lora.safetensors", "-o", "one.png", "--size", 64)
    assert "in unet" in done.stderr and (tmp_path / "one.png").is_file()


def test_a_folder_that_is_no_model_is_named(program, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "model_index.json" in program("sample", "x", "-m", "empty", status=3).stderr


def test_a_model_that_cannot_be_fetched_is_exit_6(program):
    assert "hf download" in program("sample", "x", "-m", "nobody/nothing", status=6, env={"HF_HUB_OFFLINE": "1"}).stderr
