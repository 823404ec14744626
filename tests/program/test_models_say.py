"""What models say of their process, and what the user says instead, at every command that takes a model."""

import json

import pytest
import torch

from tests.conftest import captioned
from tests.support.saying import PROCESSES, config, marked, says, single
from tests.tiny import make

DRAW = ["sample", "a cat", "--size", 32, "--steps", 2, "-n", 1, "--guidance", 1]


@pytest.fixture
def flow(tmp_path):
    return says(make(tmp_path / "flow", "sdxl"), PROCESSES["flow"])


def test_inspect_says_it_of_folders_and_files(flow, tmp_path, program):
    (found,) = program("inspect", "flow", "--json").json["files"]
    assert (found["prediction_type"], found["shift"], found["zero_snr"]) == ("flow", 2.5, False)
    assert "is a rectified flow, shift 2.5" in program("inspect", "flow").stdout
    file = marked(single(tmp_path, "sd1"), v_pred=torch.zeros(0), ztsnr=torch.zeros(0))
    (found,) = program("inspect", file, "--json").json["files"]
    assert (found["prediction_type"], found["zero_snr"], found["timestep_spacing"]) == (
        "v_prediction",
        True,
        "trailing",
    )
    says(flow, {"_class_name": "EDMEulerScheduler"})
    assert "has the scheduler EDMEulerScheduler, which lorakit does not know" in program("inspect", "flow").stdout


def test_a_flow_is_drawn_learnt_and_told(flow, tmp_path, program):
    done = program(*DRAW, "-m", "flow", "--scheduler", "euler", "-o", "p")
    assert (
        "flow is a rectified flow, shift 2.5 (scheduler/scheduler_config.json: FlowMatchEulerDiscreteScheduler)"
        in done.stderr
    )
    for scheduler in ("pndm", "ddim", "euler-a"):
        said = program(*DRAW, "-m", "flow", "--scheduler", scheduler, status=2).stderr
        assert f"--scheduler {scheduler} has no form for this model, which is a rectified flow" in said
    assert (
        "--zero-snr has no meaning for a rectified flow" in program(*DRAW, "-m", "flow", "--zero-snr", status=2).stderr
    )
    captioned(tmp_path / "data", "a thing", [(64, 64)])
    learn = ["train", "data", "-m", "flow", "--size", 64, "--steps", 1, "--batch-size", 1, "--lr", 0.01]
    done = program(*learn, "-o", "a.safetensors", "--shift", 3)
    assert (
        "shift 3 (scheduler/scheduler_config.json: FlowMatchEulerDiscreteScheduler; overridden by --shift 3, not 2.5)"
        in done.stderr
    )
    (row,) = [json.loads(line) for line in (tmp_path / "a.run/log.jsonl").read_text().splitlines()]
    assert [len(sample) for sample in row["samples"]] == [3]
    assert "--zero-snr has no meaning" in program(*learn, "-o", "b.safetensors", "--zero-snr", status=2).stderr
    # The same run goes on; as a model of another process it is another run.
    says(flow, {**PROCESSES["flow"], "shift": 1.5})
    program(*learn, "-o", "a.safetensors", "--shift", 3, "--force")
    said = program(*learn, "-o", "c.safetensors", "--run-dir", "a.run", status=4).stderr
    assert "--shift is not set, was 3" in said


def test_the_scheduler_of_a_base_is_part_of_what_a_run_is(tmp_path, program):
    base = make(tmp_path / "m")
    captioned(tmp_path / "data", "a thing", [(64, 64)])
    learn = ["train", "data", "-m", "m", "--size", 64, "--steps", 1, "--batch-size", 1, "--lr", 0.01]
    program(*learn, "-o", "a.safetensors")
    says(base, {**config(base), "prediction_type": "v_prediction"})
    said = program(*learn, "-o", "b.safetensors", "--run-dir", "a.run", status=4).stderr
    assert (
        "the base model predicts v_prediction, spacing leading; before, it was one that predicts epsilon, spacing leading"
        in said
    )


@pytest.mark.parametrize(
    "words",
    [
        [*DRAW],
        ["prior-gen", "a cat", "out", "--size", 32, "--steps", 1, "-n", 1],
        ["compose", "a.safetensors", "-o", "r.toml", "--learn", "data", "--learn-steps", 1],
        ["merge", "a.safetensors", "--into", "m", "-o", "whole"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_hears_what_the_user_says(words, tmp_path, program):
    make(tmp_path / "m")
    captioned(tmp_path / "data", "a thing", [(64, 64)])
    if "a.safetensors" in words:
        program(
            "train",
            "data",
            "-m",
            "m",
            "--size",
            64,
            "--steps",
            1,
            "--batch-size",
            1,
            "--lr",
            0.01,
            "-o",
            "a.safetensors",
        )
    model = [] if "--into" in words else ["-m", "m"]
    said = ["--prediction-type", "v_prediction", "--zero-snr"]
    done = program(*words, *model, *said)
    assert (
        "m predicts v_prediction, zero terminal SNR, spacing trailing (scheduler/scheduler_config.json: DDIMScheduler; "
        "overridden by --prediction-type v_prediction, not epsilon, --zero-snr)"
    ) in done.stderr
    assert (
        "there are epsilon, v_prediction, sample, flow"
        in program(*words, *model, "--prediction-type", "v", status=2).stderr
    )
    assert "--shift must be a number above 0" in program(*words, *model, "--shift", "0", status=2).stderr
    if "--into" in words:
        assert config(tmp_path / "whole")["prediction_type"] == "v_prediction"


def test_options_of_a_model_need_one(tmp_path, program):
    for words in (["merge", "a.safetensors", "b.safetensors"], ["compose", "a.safetensors"]):
        assert "--zero-snr" in program(*words, "--no-zero-snr", status=2).stderr


def test_a_picture_is_drawn_again_with_what_was_said(tmp_path, program):
    make(tmp_path / "m")
    other = ["--prediction-type", "flow", "--shift", 2]
    program(*DRAW, "-m", "m", "-o", "a.png", *other)
    program("sample", "--from", "a.png", "-m", "m", "-o", "b.png", "--size", 32)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    program(*DRAW, "-m", "m", "-o", "c.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()
