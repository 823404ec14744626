"""What single files say of their process, as other programs mark it."""

import json

import pytest
import torch

from lorakit import process_config
from lorakit.errors import InputError
from lorakit.formats.layouts import marks, open_model
from lorakit.formats.layouts.architecture import scheduler
from lorakit.formats.layouts.describe import schedule_of
from tests.support.saying import PROCESSES, marked, single

PLAIN = scheduler("sdxl", "epsilon")


@pytest.mark.parametrize(
    ("keys", "metadata", "words", "where"),
    [
        ((), {}, "predicts epsilon, spacing leading", ""),
        (("v_pred",), {}, "predicts v_prediction, spacing leading", "v_pred"),
        (("model.v_pred",), {}, "predicts v_prediction, spacing leading", "v_pred"),
        (("v_pred", "ztsnr"), {}, "predicts v_prediction, zero terminal SNR, spacing trailing", "v_pred and ztsnr"),
        (("ztsnr",), {marks.KIND: "v"}, "predicts v_prediction, zero terminal SNR, spacing trailing", "modelspec"),
        ((), {marks.KIND: "V_Prediction"}, "predicts v_prediction, spacing leading", "V_Prediction"),
        ((), {marks.KIND: "rectified-flow"}, "is a rectified flow, shift 1", "rectified-flow"),
        ((), {marks.ARCHITECTURE: "stable-diffusion-v2-768-v"}, "predicts v_prediction, spacing leading", "768-v"),
        ((), {marks.ARCHITECTURE: "stable-diffusion-v2-512"}, "predicts epsilon, spacing leading", "v2-512"),
        (
            (),
            {marks.OWN: json.dumps({process_config.SCHEDULER: PROCESSES["flow"]})},
            "is a rectified flow, shift 2.5",
            marks.OWN,
        ),
        ((), {marks.KIND: "riddle"}, "predicts riddle, spacing leading", "riddle"),
    ],
)
def test_marks_are_read(keys, metadata, words, where):
    found = marks.read(keys, metadata, "m")
    assert process_config.words(found.scheduler(PLAIN)) == words
    assert where in found.where and not found.clash


@pytest.mark.parametrize(
    ("keys", "metadata", "kind", "clash"),
    [
        (("v_pred",), {marks.KIND: "epsilon"}, "v_prediction", "modelspec.prediction_type epsilon"),
        ((), {marks.KIND: "epsilon", marks.ARCHITECTURE: "stable-diffusion-v2-768-v"}, "epsilon", "768-v"),
        (
            ("v_pred",),
            {marks.OWN: json.dumps({process_config.SCHEDULER: PROCESSES["epsilon"]})},
            "v_prediction",
            marks.OWN,
        ),
        (
            (),
            {marks.KIND: "v", marks.OWN: json.dumps({process_config.SCHEDULER: PROCESSES["flow"]})},
            "v_prediction",
            marks.OWN,
        ),
    ],
)
def test_a_tensor_counts_more_than_words_and_what_does_not_count_is_said(keys, metadata, kind, clash):
    found = marks.read(keys, metadata, "m")
    assert process_config.prediction_of(found.scheduler(PLAIN)) == kind and clash in found.clash


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("edm_mean", "EDMDPMSolverMultistepScheduler"),
        ("edm_vpred.sigma_max", "EDMEulerScheduler"),
        ("edm_vpred.sigma_min", "EDMEulerScheduler"),
    ],
)
def test_the_marks_of_edm_are_of_a_process_that_is_refused(key, name):
    found = marks.read((key, "v_pred"), {}, "m")
    with pytest.raises(InputError, match=f"m: its scheduler is {name}, of StableDiffusionXLPipeline"):
        process_config.check(found.scheduler(PLAIN), "m", "StableDiffusionXLPipeline")
    assert found.where == f"{key} in the file"


def test_a_damaged_note_of_lorakits_own_is_told():
    for text in ("[]", "{", '{"unet/config.json": 3}'):
        with pytest.raises(InputError, match=r"m: its lorakit\.configs cannot be read"):
            marks.read((), {marks.OWN: text}, "m")


@pytest.mark.parametrize(("dtype", "shape"), [(torch.float16, (0,)), (torch.float32, ()), (torch.bfloat16, (1,))])
def test_marks_of_any_kind_are_read_from_both_kinds_of_file(tmp_path, dtype, shape):
    from safetensors.torch import load_file

    file = marked(
        single(tmp_path, "sd1"), v_pred=torch.zeros(shape, dtype=dtype), ztsnr=torch.zeros(shape, dtype=dtype)
    )
    torch.save({"state_dict": load_file(file), "global_step": 7, "epoch": 1}, tmp_path / "one.ckpt")
    torch.save(load_file(file), tmp_path / "bare.ckpt")
    for path in (file, tmp_path / "one.ckpt", tmp_path / "bare.ckpt"):
        found = schedule_of(open_model(path))
        assert found is not None
        assert process_config.words(found[0]) == "predicts v_prediction, zero terminal SNR, spacing trailing"
        assert found[1] == "v_pred and ztsnr in the file"


@pytest.mark.parametrize(("inputs", "known"), [(4, False), (9, True), (5, True)])
def test_an_sd2_file_that_says_nothing_is_of_noise_where_it_has_more_inputs(tmp_path, inputs, known):
    found = schedule_of(open_model(single(tmp_path, "sd2", inputs=inputs)))
    if not known:
        assert found is None
        return
    assert found is not None and process_config.prediction_of(found[0]) == "epsilon"
    assert f"as SD2 with {inputs} input channels does" in found[1]


def test_marks_that_are_written_are_read_as_the_same():
    plain = {process_config.SCHEDULER: PLAIN}
    for config in PROCESSES.values():
        tensors, texts = marks.written(config, {}, plain, {})
        again = marks.read(tensors.keys(), texts, "m").scheduler(PLAIN)
        assert {key: again[key] for key in config} == config
    tensors, texts = marks.written(PROCESSES["v, zero"], {}, plain, {marks.ARCHITECTURE: "stable-diffusion-v2-512"})
    assert [*tensors] == ["v_pred", "ztsnr"] and texts[marks.KIND] == "v"
    assert texts[marks.ARCHITECTURE] == "stable-diffusion-v2-768-v"
    assert marks.written(PLAIN, {}, plain, {}) == ({}, {marks.KIND: "epsilon"})


def test_an_adapter_for_sd2_is_of_the_architecture_of_its_prediction():
    for name, architecture in (("v", "stable-diffusion-v2-768-v/lora"), ("epsilon", "stable-diffusion-v2-512/lora")):
        assert marks.of_training(PROCESSES[name], "sd2")[marks.ARCHITECTURE] == architecture
        assert marks.ARCHITECTURE not in marks.of_training(PROCESSES[name], "sdxl")
