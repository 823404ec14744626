"""Which diffusion process a model was trained for, read from the scheduler's config beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lorakit.diffusion.process import PREDICTIONS, Alphas, Flow, Process
from lorakit.errors import InputError

_FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
# Solvers over betas; a model's config names the one that its authors drew with.
_BETAS = (
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler", "LMSDiscreteScheduler", "PNDMScheduler",
    "TCDScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
_FLOWING = ("flow_prediction", "flow_matching")


def process_of(config: Mapping[str, Any], source: str) -> Process:
    """The process of a model whose scheduler has this config.

    source   names the model in errors
    raises   InputError for a class of scheduler, a prediction or a schedule that is none of the processes lorakit knows
    """
    name = str(config.get("_class_name", "DDIMScheduler"))
    prediction = str(config.get("prediction_type", "epsilon"))
    if name in _FLOW or prediction in _FLOWING or config.get("use_flow_sigmas"):
        return _flow(config, source)
    if name not in _BETAS or config.get("timestep_type") == "continuous":
        how = " over continuous noise levels" if name in _BETAS else ""
        raise InputError(
            f"{source}: its scheduler is {name}{how}, a noise schedule that lorakit does not know; it trains and draws "
            "models over betas (Stable Diffusion's own) and rectified flows"
        )
    if prediction not in PREDICTIONS:
        raise InputError(f"{source}: its scheduler predicts '{prediction}', which lorakit does not know")
    return Alphas(_alphas(config, source), prediction)


def _flow(config: Mapping[str, Any], source: str) -> Flow:
    if config.get("use_dynamic_shifting"):
        raise InputError(
            f"{source}: its scheduler shifts the noise by the picture's size, which lorakit does not know for UNets"
        )
    shift, steps = config.get("shift", config.get("flow_shift", 1.0)), config.get("num_train_timesteps", 1000)
    wrong = isinstance(shift, bool) or not isinstance(shift, int | float) or not 0 < shift < math.inf
    if wrong or isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(
            f"{source}: its scheduler has shift {shift!r} and num_train_timesteps {steps!r}, expected numbers above 0"
        )
    return Flow(steps, float(shift))


def _alphas(config: Mapping[str, Any], source: str) -> Any:
    from diffusers import DDIMScheduler

    try:
        return DDIMScheduler.from_config({**config, "_class_name": "DDIMScheduler"}).alphas_cumprod
    except (NotImplementedError, TypeError, ValueError) as error:
        raise InputError(f"{source}: its scheduler's config makes no schedule of betas: {error}") from error
