"""The solvers of diffusers over a model's own process: which times they visit, and how a step goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lorakit.diffusion.process import Flow
from lorakit.errors import InputError, UsageError
from lorakit.models.load import Components
from lorakit.schedulers import SCHEDULERS

# What of a model's scheduler config says how its noise goes, and not how its authors liked to draw.
_NOISE = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type", "steps_offset",
    "rescale_betas_zero_snr",
)  # fmt: skip


class Solver:
    """A solver set to a number of steps.

    times   the number that the model is told at each step, [steps], falling
    """

    def __init__(self, components: Components, name: str, steps: int) -> None:
        """UsageError for a solver that has no form for the model's process; InputError for a config that gives no such steps."""
        import diffusers

        kind, flow = SCHEDULERS[name], isinstance(components.process, Flow)
        self._draws, self._flow = kind.draws, flow
        chosen = kind.flow if flow else kind.betas
        if chosen is None:
            able = ", ".join(other for other, row in SCHEDULERS.items() if row.flow is not None)
            raise UsageError(
                f"--scheduler {name} has no form for a rectified flow, which this model is; there are {able}"
            )
        cls, settings = getattr(diffusers, chosen[0]), chosen[1]
        try:
            self.scheduler: Any = cls.from_config({**self._config(components), **settings})
            self.scheduler.set_timesteps(steps, device=components.device)
        except (ValueError, TypeError, RuntimeError, LookupError, NotImplementedError) as error:
            raise InputError(
                f"{components.folder}: {steps} steps of {name} cannot be made of its scheduler's config: {error}"
            ) from error
        self.times: Tensor = self.scheduler.timesteps

    @staticmethod
    def _config(components: Components) -> dict[str, Any]:
        process = components.process
        if isinstance(process, Flow):
            return {"num_train_timesteps": process.steps, "shift": process.shift, "flow_shift": process.shift}
        config = {key: components.scheduler_config[key] for key in _NOISE if key in components.scheduler_config}
        if config.get("rescale_betas_zero_snr"):
            config["timestep_spacing"] = "trailing"  # the noisiest step is one of its own (Lin et al., 2024)
        return config

    def begin(self, noise: Tensor, clean: Tensor | None, first: int) -> Tensor:
        """The noisy latents that the drawing starts from at step `first`: noise alone, or clean latents with noise."""
        if clean is None:
            return noise * getattr(self.scheduler, "init_noise_sigma", 1.0)
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(first)
        return self.noisy(clean, noise, first)

    def noisy(self, clean: Tensor, noise: Tensor, i: int) -> Tensor:
        """Clean latents as noisy as those that step i starts from; clean after the last step."""
        if i == len(self.times):
            return clean
        if self._flow:
            return torch.lerp(clean, noise, self.scheduler.sigmas[i].to(clean))
        return self.scheduler.add_noise(clean, noise, self.times[i].expand(len(clean)))  # type: ignore[no-any-return]

    def scaled(self, x: Tensor, i: int) -> Tensor:
        """The latents of step i as the model wants them."""
        return x if self._flow else self.scheduler.scale_model_input(x, self.times[i])

    def step(self, answer: Tensor, x: Tensor, i: int, draws: Sequence[torch.Generator]) -> Tensor:
        """The latents after step i, of the model's answer to those before it."""
        extra = {"generator": draws} if self._draws else {}
        return self.scheduler.step(answer, self.times[i], x, **extra).prev_sample  # type: ignore[no-any-return]
