"""The solvers of diffusers over a model's own process: which times they visit, and how a step goes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorakit.diffusion.process import Alphas, Flow
from lorakit.diffusion.spacing import beta_quantile
from lorakit.errors import InputError, UsageError
from lorakit.models.load import Components
from lorakit.schedulers import SCHEDULERS, SPACINGS, USUAL, Form

# What of a model's scheduler config says how its noise goes; and, where nothing else is asked for, how its steps are
# spaced and where the last one ends. The rest of it is how its authors liked to draw.
_NOISE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "steps_offset",
    "rescale_betas_zero_snr",
)
_TIMES = ("timestep_spacing", "set_alpha_to_one", "final_sigmas_type", "sigma_min", "sigma_max")


def form_of(components: Components, name: str) -> Form:
    """A scheduler's form for the model; UsageError, with those that there are, where it has none."""
    process = components.process
    if isinstance(process, Flow):
        found, what = {other: kind.flow for other, kind in SCHEDULERS.items() if kind.flow}, "is a rectified flow"
    else:
        forms, what = {other: kind.betas for other, kind in SCHEDULERS.items()}, ""
        if isinstance(process, Alphas):
            what = f"predicts '{process.prediction}'" + " with zero terminal SNR" * process.ends_in_noise
            forms = {
                other: form
                for other, form in forms.items()
                if process.prediction in form.predictions and (form.zero_snr or not process.ends_in_noise)
            }
        found = forms
    if name not in found:
        raise UsageError(f"--scheduler {name} has no form for this model, which {what}; there are {', '.join(found)}")
    return found[name]


def spacing_of(components: Components, name: str, asked: str | None) -> str:
    """The spacing of a scheduler's steps: the one asked for, the model's own (None), or the scheduler's (USUAL).

    UsageError where the scheduler has not got the one asked for. A model of zero terminal SNR begins at its last timestep,
    whatever is asked: it was taught to begin nowhere else.
    """
    form, process = form_of(components, name), components.process
    if asked not in (None, USUAL, *form.spacings):
        there = (
            f"it has {', '.join(form.spacings)}" if form.spacings else "it visits the timesteps that it was made for"
        )
        flow = " over a rectified flow" if isinstance(process, Flow) else ""
        raise UsageError(f"--spacing {asked}: --scheduler {name}{flow} cannot space its steps so; {there}")
    if not form.spacings:
        return USUAL
    if isinstance(process, Flow):
        return asked if asked in SPACINGS else form.spacings[0]
    found = asked or _own(components.scheduler_config, form)
    if not _ends_in_noise(components) or found == USUAL or found not in _AT_TIMES:
        return found
    if asked in ("leading", "linspace"):
        components.say(
            f"--spacing {asked} is not taken: the model is of zero terminal SNR and begins at its last timestep, which is "
            "trailing"
        )
    return "sgm-uniform" if asked == "sgm-uniform" else "trailing"


_AT_TIMES = [name for name, settings in SPACINGS.items() if "timestep_spacing" in settings]


def _ends_in_noise(components: Components) -> bool:
    return isinstance(components.process, Alphas) and components.process.ends_in_noise


def _own(config: Mapping[str, Any], form: Form) -> str:
    """The spacing that a model's scheduler config says, as far as the form has it."""
    for spacing in form.spacings:
        if any(key.startswith("use_") and config.get(key) for key in SPACINGS[spacing]):
            return spacing
    return str(config.get("timestep_spacing") or form.spacings[0])


def named_spacing(components: Components, name: str, asked: str | None) -> str:
    """The spacing as a picture's text says it: USUAL where nothing was asked for and the model's own makes no difference
    to what the scheduler does of itself. What the model says and is not asked for is told."""
    found = spacing_of(components, name, asked)
    own = components.scheduler_config.get("timestep_spacing") and spacing_of(components, name, None)
    if asked == found and own not in (None, USUAL, found):
        components.say(f"--spacing {asked} is taken in the place of {own}, which the model's scheduler says")
    return USUAL if asked in (None, USUAL) and _set(components, name, found) == _set(components, name, USUAL) else found


def _set(components: Components, name: str, spacing: str) -> dict[str, Any]:
    """All settings that a scheduler has with a spacing, its own defaults among them."""
    import diffusers

    form = form_of(components, name)
    cls = getattr(diffusers, form.cls)
    found = cls.from_config(_config(components, form, spacing)).config
    return {key: found[key] for key in inspect.signature(cls).parameters}


def _config(components: Components, form: Form, spacing: str, size: tuple[int, int] = (1, 1)) -> dict[str, Any]:
    process, chosen = components.process.at(size), SPACINGS.get(spacing, {})
    if spacing == "beta":
        chosen = SPACINGS["exponential"]  # beta goes its way, with numbers of its own: diffusers' come from scipy
    if isinstance(process, Flow):
        noise = {"num_train_timesteps": process.steps, "shift": process.shift, "flow_shift": process.shift}
        return {**noise, **form.settings, **chosen}
    said = {key: value for key, value in components.scheduler_config.items() if value is not None}
    config = {key: said[key] for key in _NOISE if key in said} | form.settings
    if spacing != USUAL:
        config = {key: x for key, x in config.items() if key not in _TIMES}
        config |= {key: said[key] for key in _TIMES if key in said}
    if _ends_in_noise(components):
        config["timestep_spacing"] = "trailing"  # the noisiest step is one of its own (Lin et al., 2024)
    return config | chosen


def _beta_sigmas(config: Mapping[str, Any]) -> Callable[[np.ndarray, int], np.ndarray]:
    """What makes sigmas, from the range of others, that are spaced by the beta distribution."""

    def sigmas(in_sigmas: np.ndarray, num_inference_steps: int) -> np.ndarray:
        least, most = config.get("sigma_min"), config.get("sigma_max")
        low = float(in_sigmas[-1]) if least is None else least
        high = float(in_sigmas[0]) if most is None else most
        shares = torch.linspace(1, 0, num_inference_steps, dtype=torch.float64)
        return low + beta_quantile(shares).numpy() * (high - low)

    return sigmas


class Solver:
    """A solver set to a number of steps.

    times   the number that the model is told at each step, [steps], falling
    """

    def __init__(
        self, components: Components, name: str, steps: int, spacing: str | None = None, size: tuple[int, int] = (1, 1)
    ) -> None:
        """For latents of height and width `size`, which only some processes depend on. UsageError for a solver that has no
        form for the model's process or not this spacing (None: the model's own); InputError for a config that gives no such
        steps."""
        import diffusers

        form, chosen = form_of(components, name), spacing_of(components, name, spacing)
        self._draws, self._flow, self._steps = SCHEDULERS[name].draws, isinstance(components.process, Flow), steps
        where = f"{components.folder}: {steps} steps of {name}"
        try:
            self.scheduler: Any = getattr(diffusers, form.cls).from_config(_config(components, form, chosen, size))
            if chosen == "beta":
                self.scheduler._convert_to_exponential = _beta_sigmas(self.scheduler.config)
            self.scheduler.set_timesteps(steps, device=components.device)
        except (ValueError, TypeError, RuntimeError, LookupError, NotImplementedError) as error:
            raise InputError(f"{where} cannot be made of its scheduler's config: {error}") from error
        self.times: Tensor = self.scheduler.timesteps
        self._check_times(f"--steps {steps}: --scheduler {name} with the spacing {chosen}", components)

    def _check_times(self, what: str, components: Components) -> None:
        """UsageError where the steps are so many that they leave the model's timesteps or do not move."""
        if self._flow or self.times.is_floating_point():
            return
        if int(self.times[0]) >= components.process.steps or (self._steps > 2 and self.times[0] == self.times[-1]):
            raise UsageError(
                f"{what} has no room for so many among the model's {components.process.steps} timesteps; take fewer"
            )

    def first(self, strength: float) -> int:
        """The step that a drawing begins with that does this share of the denoising, rounded down; at least one step is
        done, but of a share of 0."""
        done = min(self._steps, max(int(self._steps * strength), 1 if strength > 0 else 0))
        return len(self.times) if not done else min(self._steps - done, len(self.times) - 1)

    def begin(self, noise: Tensor, clean: Tensor | None, first: int) -> Tensor:
        """The noisy latents that the drawing starts from at step `first`: noise alone, or clean latents with noise."""
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(first)
        if clean is None:
            return noise * getattr(self.scheduler, "init_noise_sigma", 1.0)
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
