"""A model's process, as its scheduler's config says it."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

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


GROWING = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True, "max_shift": 2.0}


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("size", [(8, 8), (64, 48)])
def test_a_shift_by_size_is_that_of_the_pipelines(kind, size):
    config = {**GROWING, "time_shift_type": kind}
    length = size[0] * size[1] // 4
    mu = 0.5 + (2.0 - 0.5) / (4096 - 256) * (length - 256)
    theirs = FlowMatchEulerDiscreteScheduler.from_config(config)
    theirs.set_timesteps(sigmas=[1.0, 0.7, 0.2], mu=mu)
    process = process_of(config, "m").at(size)
    found = process.sigmas(torch.tensor([999, 699, 199]))
    torch.testing.assert_close(found, theirs.sigmas[:-1], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"_class_name": "EDMEulerScheduler"}, "m: its scheduler is EDMEulerScheduler, a noise schedule"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "over continuous noise levels"),
        ({"_class_name": "KarrasVeScheduler"}, "KarrasVeScheduler"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "score"}, "predicts 'score'"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "wavy"}, "makes no schedule of betas"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": -1}, "shift -1"),
        ({**GROWING, "max_shift": "much"}, "max_shift 'much'"),
        ({**GROWING, "max_image_seq_len": 256}, "max_image_seq_len 256"),
        ({**GROWING, "time_shift_type": "wavy"}, "wavy"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift_terminal": 0.1}, "shift_terminal"),
    ],
)
def test_what_is_no_known_process_is_refused_by_name(config, says):
    with pytest.raises(InputError, match=says):
        process_of(config, "m")
