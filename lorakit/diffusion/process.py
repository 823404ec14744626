"""Diffusion processes: how pictures become noise, what a model is asked for on the way, and what its answers mean.

A model belongs to one process, and whatever trains, measures or draws asks that process; nothing else knows of alphas,
sigmas or kinds of prediction. Clean latents, noise, noisy latents, targets and answers are float tensors [b, c, h, w].
Training counts timesteps [b] as integers from 0, nearly the picture, to `steps` - 1, nearly noise. A new process is a
class with what raises NotImplementedError in `Process`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lorakit.diffusion import loss
from lorakit.errors import UsageError
from lorakit.process_config import PREDICTIONS

__all__ = ["PREDICTIONS", "Alphas", "Flow", "Growth", "Process"]


class Process:
    """What a diffusion process has to say."""

    NAME: ClassVar[str]

    @property
    def steps(self) -> int:
        """The number of timesteps that training draws from."""
        raise NotImplementedError

    def at(self, size: tuple[int, int]) -> Process:
        """The process for latents of this height and width; only some depend on it."""
        return self

    def noisy(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The mixture of clean latents and noise at timesteps t."""
        raise NotImplementedError

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the model should answer at timesteps t."""
        raise NotImplementedError

    def told(self, t: Tensor) -> Tensor:
        """The numbers [b] that the model is told for timesteps t."""
        raise NotImplementedError

    def finished(self, noisy: Tensor, answer: Tensor, told: Tensor) -> Tensor:
        """The clean latents that the model's answer stands for, where it was told the number `told`, a scalar."""
        raise NotImplementedError

    def weights(self, rule: str, gamma: float = 0.0) -> Tensor:
        """How much the loss at each timestep counts, [steps], float32.

        rule     "min-snr", with the cap gamma (0 for no cap), "debiased" or "v-like"
        raises   UsageError for a rule that the process has no meaning for
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Alphas(Process):
    """Noise of growing variance over the picture (Ho et al., 2020): sqrt(a) * clean + sqrt(1 - a) * noise.

    alphas       the share of the picture's power that is left at each timestep, [steps], falling, float32
    prediction   what the model answers: "epsilon" (the noise), "v_prediction" (Salimans and Ho, 2022) or "sample"
    """

    NAME: ClassVar[str] = "diffusion"

    alphas: Tensor
    prediction: str = "epsilon"

    @property
    def steps(self) -> int:
        return len(self.alphas)

    @property
    def ends_in_noise(self) -> bool:
        """Whether nothing of the picture is left at the last timestep (zero terminal SNR)."""
        return float(self.alphas[-1]) == 0

    def noisy(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        a = self.alphas[t][:, None, None, None]
        return a.sqrt() * clean + (1 - a).sqrt() * noise

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return clean
        a = self.alphas[t][:, None, None, None]
        return a.sqrt() * noise - (1 - a).sqrt() * clean

    def told(self, t: Tensor) -> Tensor:
        return t

    def finished(self, noisy: Tensor, answer: Tensor, told: Tensor) -> Tensor:
        if self.prediction == "sample":
            return answer
        a = self.alphas[int(told.round().clamp(0, self.steps - 1))].to(noisy)
        if self.prediction == "v_prediction":
            return a.sqrt() * noisy - (1 - a).sqrt() * answer
        return (noisy - (1 - a).sqrt() * answer) / a.sqrt().clamp(min=1e-4)

    def weights(self, rule: str, gamma: float = 0.0) -> Tensor:
        if rule == "debiased":
            return loss.debiased_weight(self.alphas, self.prediction)
        if rule == "v-like":
            return loss.v_like_weight(self.alphas, self.prediction)
        return loss.min_snr_weight(self.alphas, gamma or None, self.prediction, self.ends_in_noise)


@dataclass(frozen=True)
class Growth:
    """A shift that grows with the picture, since larger ones need more noise (Esser et al., 2024): at size n, counted as the
    pipelines of SD3 and Flux count it, in squares of 2 x 2 latents, e ** mu, where mu goes through (n, mu) = `least` and `most`.

    exponential   whether it is e ** mu; else it is mu
    """

    least: tuple[int, float] = (256, 0.5)
    most: tuple[int, float] = (4096, 1.15)
    exponential: bool = True

    def shift(self, size: tuple[int, int]) -> float:
        """The shift for latents of this height and width."""
        (n, low), (m, high) = self.least, self.most
        mu = low + (high - low) / (m - n) * ((size[0] // 2) * (size[1] // 2) - n)
        return math.exp(mu) if self.exponential else mu


@dataclass(frozen=True)
class Flow(Process):
    """The straight way from the picture to noise (rectified flow, Liu et al., 2022; Lipman et al., 2023):
    (1 - sigma) * clean + sigma * noise. The model answers noise - clean and is told sigma * steps.

    shift    bends the sigmas of the timesteps towards noise: shift * s / (1 + (shift - 1) * s) (Esser et al., 2024)
    growth   gives the shift by the size of the latents, where `at` is asked
    """

    NAME: ClassVar[str] = "flow"

    steps: int = 1000  # type: ignore[misc]
    shift: float = 1.0
    growth: Growth | None = None

    def at(self, size: tuple[int, int]) -> Flow:
        return replace(self, shift=self.growth.shift(size), growth=None) if self.growth else self

    def sigmas(self, t: Tensor) -> Tensor:
        """The share of noise at timesteps t, [b], float32: of timestep i, (i + 1) / steps before the shift."""
        s = (t.float() + 1) / self.steps
        return self.shift * s / (1 + (self.shift - 1) * s)

    def noisy(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        s = self.sigmas(t)[:, None, None, None]
        return (1 - s) * clean + s * noise

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - clean

    def told(self, t: Tensor) -> Tensor:
        return self.sigmas(t) * self.steps

    def finished(self, noisy: Tensor, answer: Tensor, told: Tensor) -> Tensor:
        return noisy - (told.to(noisy) / self.steps) * answer

    def weights(self, rule: str, gamma: float = 0.0) -> Tensor:
        """Ones: min-SNR leaves a flow alone, whose target is of one size at all timesteps."""
        if rule != "min-snr":
            raise UsageError(
                f"--{rule} weighs models that predict noise, v or the picture; this one is a rectified flow"
            )
        return torch.ones(self.steps)
