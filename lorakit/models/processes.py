"""Which diffusion process a model was trained for, from the config of its scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lorakit import process_config
from lorakit.diffusion.process import Alphas, Flow, Growth, Process
from lorakit.errors import InputError


def process_of(config: Mapping[str, Any], source: str) -> Process:
    """The process of a model whose scheduler has this config.

    source   names the model in errors
    raises   InputError for a class of scheduler, a prediction or a schedule that is none of the processes lorakit knows
    """
    process_config.check(config, source)
    if process_config.is_flow(config):
        steps = config.get("num_train_timesteps", 1000)
        if config.get("use_dynamic_shifting"):
            return Flow(steps, growth=_growth(config))
        return Flow(steps, float(process_config.shift_of(config)))
    return Alphas(_alphas(config, source), process_config.prediction_of(config))


def _growth(config: Mapping[str, Any]) -> Growth:
    n, low, m, high = process_config.growth_of(config).values()
    return Growth((n, low), (m, high), config.get("time_shift_type", "exponential") == "exponential")


def _alphas(config: Mapping[str, Any], source: str) -> Tensor:
    from diffusers import DDIMScheduler

    try:
        found: Tensor = DDIMScheduler.from_config({**config, "_class_name": "DDIMScheduler"}).alphas_cumprod
    except (NotImplementedError, TypeError, ValueError) as error:
        raise InputError(f"{source}: its scheduler's config makes no schedule of betas: {error}") from error
    return found
