"""A model's process, as its scheduler's config says it."""

import pytest

from lorakit.diffusion.process import Alphas, Flow
from lorakit.errors import InputError
from lorakit.models.processes import process_of

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"]
)
def test_betas_are_read_whatever_the_solver(name):
    found = process_of({"_class_name": name, **BETAS, "prediction_type": "v_prediction"}, "m")
    assert isinstance(found, Alphas) and found.prediction == "v_prediction" and not found.ends_in_noise
    assert process_of({"_class_name": name, **BETAS, "rescale_betas_zero_snr": True}, "m").ends_in_noise


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 2.5},
        {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, "flow_shift": 2.5},
        {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "flow_shift": 2.5},
    ],
)
def test_flows_are_read_whatever_the_solver(config):
    assert process_of(config, "m") == Flow(1000, 2.5)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"_class_name": "EDMEulerScheduler"}, "m: its scheduler is EDMEulerScheduler, a noise schedule"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "over continuous noise levels"),
        ({"_class_name": "KarrasVeScheduler"}, "KarrasVeScheduler"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "score"}, "predicts 'score'"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "wavy"}, "makes no schedule of betas"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": -1}, "shift -1"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}, "by the picture's size"),
    ],
)
def test_what_is_no_known_process_is_refused_by_name(config, says):
    with pytest.raises(InputError, match=says):
        process_of(config, "m")
