"""What a scheduler's config says, and what a user says instead."""

import pytest

from lorakit import process_config
from lorakit.errors import InputError, UsageError
from lorakit.process_config import Overrides
from tests.support.saying import BETAS, PROCESSES


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("epsilon", "predicts epsilon, spacing leading"),
        ("v", "predicts v_prediction, spacing linspace"),
        ("v, zero", "predicts v_prediction, zero terminal SNR, spacing trailing"),
        ("sample", "predicts sample, spacing trailing"),
        ("flow", "is a rectified flow, shift 2.5"),
        ("flow of DPM", "is a rectified flow, shift 3"),
    ],
)
def test_a_config_in_words(name, words):
    assert process_config.words(PROCESSES[name]) == words


def test_what_the_user_says_counts_and_one_note_tells_both():
    notes = []
    found = process_config.settled(
        PROCESSES["epsilon"], "in the file", Overrides("v_prediction", True), "m", "", notes.append
    )
    assert process_config.words(found) == "predicts v_prediction, zero terminal SNR, spacing trailing"
    assert found["_class_name"] == "PNDMScheduler" and found["skip_prk_steps"] is True
    assert notes == [
        "m predicts v_prediction, zero terminal SNR, spacing trailing (in the file; overridden by --prediction-type v_prediction, "
        "not epsilon, --zero-snr)"
    ]
    notes.clear()
    same = process_config.settled(PROCESSES["v"], "in the file", Overrides("v_prediction"), "m", "", notes.append)
    assert same == PROCESSES["v"] and "overridden" not in notes[0]


def test_a_model_is_taken_for_a_flow_and_a_flow_for_another():
    flow, _ = process_config.overridden(PROCESSES["v"], Overrides("flow", shift=3.0), "m")
    assert process_config.words(flow) == "is a rectified flow, shift 3"
    noise, _ = process_config.overridden(PROCESSES["flow"], Overrides("epsilon"), "m")
    assert process_config.words(noise) == "predicts epsilon" and {k: noise[k] for k in BETAS} == BETAS
    for name, key in (("flow", "shift"), ("flow of DPM", "flow_shift")):
        bent, told = process_config.overridden(PROCESSES[name], Overrides(shift=1.5), "m")
        assert bent[key] == 1.5 == process_config.shift_of(bent) and told[0].startswith("--shift 1.5, not ")
    off, _ = process_config.overridden(PROCESSES["v, zero"], Overrides(zero_snr=False), "m")
    assert process_config.words(off) == "predicts v_prediction, spacing trailing"


@pytest.mark.parametrize(
    ("model", "wanted", "says"),
    [
        ("flow", {"zero_snr": True}, "--zero-snr has no meaning for a rectified flow"),
        ("v", {"shift": 2.0}, "--shift is a rectified flow's, and m predicts v_prediction"),
        ("v", {"prediction": "flow", "zero_snr": True}, "--zero-snr has no meaning"),
        ("v", {"prediction": "epsilon", "shift": 2.0}, "--prediction-type epsilon is not"),
        ("v", {"prediction": "vpred"}, "there are epsilon, v_prediction, sample, flow"),
        ("flow", {"shift": -1.0}, "above 0, got -1"),
        ("flow", {"shift": float("nan")}, "above 0, got nan"),
    ],
)
def test_what_has_no_meaning_is_refused(model, wanted, says):
    with pytest.raises(UsageError, match=says):
        process_config.overridden(PROCESSES[model], Overrides(**wanted), "m")


@pytest.mark.parametrize("wanted", [{}, {"prediction": "epsilon"}, {"prediction": "flow"}])
@pytest.mark.parametrize(
    "name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "MyScheduler", "CosineDPMSolverMultistepScheduler"]
)
def test_a_class_of_another_process_is_refused_with_its_pipeline_whatever_the_user_says(name, wanted):
    with pytest.raises(InputError, match=f"m: its scheduler is {name}, of SomePipeline"):
        process_config.settled({"_class_name": name, **BETAS}, "there", Overrides(**wanted), "m", "SomePipeline", print)


def test_a_shift_by_size_gives_way_to_one_that_is_said():
    config = {**PROCESSES["flow"], "use_dynamic_shifting": True}
    assert process_config.words(config) == "is a rectified flow, shift by the picture's size"
    found = process_config.settled(config, "there", Overrides(shift=3.0), "m", "", lambda text: None)
    assert process_config.words(found) == "is a rectified flow, shift 3"


def test_zero_terminal_snr_of_a_model_of_noise_is_noted():
    notes = []
    process_config.settled(PROCESSES["epsilon"], "there", Overrides(zero_snr=True), "m", "", notes.append)
    assert len(notes) == 2 and "can learn nothing and tell nothing" in notes[1]
