"""What an SD2 file predicts that does not say it."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorakit.models.described import described
from lorakit.process_config import Overrides
from tests.support.saying import marked, single

SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return single(tmp_path_factory.mktemp("sd2"), "sd2")


@pytest.fixture(scope="module")
def of_noise(file):
    """Its last convolution answers what came in: the first block's input, which its last resnet has beside it."""
    tensors = load_file(file)
    unet = {k: torch.zeros_like(x) for k, x in tensors.items() if k.startswith("model.diffusion_model.")}
    into = unet["model.diffusion_model.input_blocks.0.0.weight"]
    for i in range(4):
        into[i, i, 1, 1] = 1.0
        into[4 + i, i, 1, 1] = -1.0
    last = max(
        (k for k in unet if k.endswith("skip_connection.weight") and k.startswith("model.diffusion_model.output")),
        key=_number,
    )
    skip = unet[last]
    width = into.shape[0]
    for i in range(width):
        skip[i, skip.shape[1] - width + i] = 1.0
    unet["model.diffusion_model.out.0.weight"] += 1.0
    out = unet["model.diffusion_model.out.2.weight"]
    for i in range(4):
        out[i, i, 1, 1], out[i, 4 + i, 1, 1] = 1.0, -1.0
    return _saved({**tensors, **unet}, file.with_name("noise.safetensors"))


def _number(key):
    return int(key.split(".")[3])


def _saved(tensors, file):
    save_file(tensors, file)
    return file


def found(file, wanted=None):
    notes = []
    about = described(str(file), notes.append, wanted or Overrides())
    return about, notes


def test_the_unet_is_asked_and_the_answer_said(file, of_noise):
    about, notes = found(of_noise)
    assert (
        about.configs[SCHEDULER]["prediction_type"] == "epsilon"
        and about.configs["unet/config.json"]["sample_size"] == 64
    )
    assert (
        len(notes) == 1 and "shown noise at the last timestep" in notes[0] and "--prediction-type decides" in notes[0]
    )
    about, notes = found(file)
    assert (
        about.configs[SCHEDULER]["prediction_type"] == "v_prediction"
        and about.configs["unet/config.json"]["sample_size"] == 96
    )
    assert "shown noise" in notes[0]


def test_the_option_decides_and_the_unet_is_not_asked(of_noise, monkeypatch):
    monkeypatch.setattr("lorakit.models.parts.unet_of", lambda *given: 1 / 0)
    about, notes = found(of_noise, Overrides("v_prediction"))
    assert about.configs[SCHEDULER]["prediction_type"] == "v_prediction"
    assert notes == [f"{of_noise} predicts v_prediction, spacing leading (the file does not say it)"]
    about, _ = found(of_noise, Overrides("flow", shift=3.0))
    assert about.configs[SCHEDULER]["shift"] == 3.0


def test_a_mark_is_enough(file, monkeypatch, tmp_path):
    monkeypatch.setattr("lorakit.models.parts.unet_of", lambda *given: 1 / 0)
    marked_file = _saved(load_file(file), tmp_path / "v.safetensors")
    about, notes = found(marked(marked_file, {"modelspec.prediction_type": "epsilon"}))
    assert about.configs[SCHEDULER]["prediction_type"] == "epsilon" and "modelspec.prediction_type epsilon" in notes[0]
