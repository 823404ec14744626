"""Which checkpoint is best: the loss on held-out pictures, always with the same noise at the same timesteps.

Two checkpoints are compared pair by pair, picture and timestep, so that what differs between pictures does not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorakit.diffusion.loss import target
from lorakit.diffusion.noise import add_noise, generator
from lorakit.models.conditioning import Conditioning
from lorakit.models.load import Components
from lorakit.models.predict import predict

STRATA = 8
_TOGETHER = 8  # samples a forward; fixed, so that sums do not depend on the machine


@dataclass(frozen=True)
class HeldOut:
    """A picture that is not trained on: its name, latents [c, h, w], and caption."""

    name: str
    latents: Tensor
    caption: str


@dataclass(frozen=True)
class Verdict:
    """Two sets of paired losses: the mean of the new one, by how much it is above the old one's, and half the width of
    the 95 % interval of that difference."""

    mean: float
    above: float
    half_width: float

    @property
    def better(self) -> bool:
        return self.above < 0

    @property
    def surely_worse(self) -> bool:
        return self.above - self.half_width > 0


def compare(now: Tensor, best: Tensor | None) -> Verdict:
    """Losses [pictures, strata] of the same pairs. Pictures are the independent units: the strata of one are averaged."""
    mean = float(now.mean())
    if best is None:
        return Verdict(mean, -math.inf, 0.0)
    by_picture = (now - best).mean(1).double()
    n = len(by_picture)
    spread = float(by_picture.std()) / math.sqrt(n) if n > 1 else math.inf
    return Verdict(mean, float(by_picture.mean()), _t95(n - 1) * spread if n > 1 else math.inf)


def _t95(freedom: int) -> float:
    """The 97.5 % point of Student's t, by Cornish and Fisher's expansion (error under 0.5 % from 3 degrees on)."""
    exact = {1: 12.706, 2: 4.303}
    if freedom in exact:
        return exact[freedom]
    z = 1.959964
    g1, g2 = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + g1 / freedom + g2 / freedom**2 + g3 / freedom**3


@torch.no_grad()
def losses(
    components: Components, pictures: Sequence[HeldOut], texts: Callable[[Sequence[str]], Conditioning], seed: int
) -> Tensor:
    """Unweighted squared errors [pictures, STRATA] of the model as it stands, on the CPU; finite or not."""
    alphas = components.alphas()
    jobs = [(i, s) for i in range(len(pictures)) for s in range(STRATA)]
    found = torch.zeros(len(pictures), STRATA)
    by_shape: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for i, s in jobs:
        by_shape.setdefault(tuple(pictures[i].latents.shape), []).append((i, s))
    for same in by_shape.values():
        for start in range(0, len(same), _TOGETHER):
            part = same[start : start + _TOGETHER]
            noise = torch.stack([_noise(pictures[i], s, seed) for i, s in part])
            times = torch.tensor([_timestep(pictures[i], s, seed, len(alphas)) for i, s in part])
            latents = torch.stack([pictures[i].latents for i, _ in part])
            a = alphas[times]
            told = texts([pictures[i].caption for i, _ in part]).sized(_pixels(components, latents))
            said = predict(components, add_noise(latents, noise, a), times.to(components.device), told).float().cpu()
            error = (said - target(latents, noise, a, components.prediction_type)).square().mean((1, 2, 3))
            for (i, s), value in zip(part, error, strict=True):
                found[i, s] = value
    return found


def _noise(picture: HeldOut, stratum: int, seed: int) -> Tensor:
    return torch.randn(picture.latents.shape, generator=generator(seed, "validation", picture.name, stratum))


def _timestep(picture: HeldOut, stratum: int, seed: int, count: int) -> int:
    """One timestep within its eighth of the schedule, the same at every validation."""
    low, high = stratum * count // STRATA, (stratum + 1) * count // STRATA
    draw = generator(seed, "validation timestep", picture.name, stratum)
    return int(torch.randint(low, max(low + 1, high), (1,), generator=draw))


def _pixels(components: Components, latents: Tensor) -> tuple[int, int]:
    return latents.shape[3] * components.vae_factor, latents.shape[2] * components.vae_factor


class Drift:
    """How far the model has moved on prompts that have nothing to do with the pictures: the relative squared change of
    what it says to fixed noise since this was made."""

    PROMPTS = ("a photo of a house", "a landscape with mountains", "a portrait of a woman", "a red car", "")

    def __init__(self, components: Components, texts: Callable[[Sequence[str]], Conditioning], seed: int) -> None:
        self.components, self.texts, self.seed = components, texts, seed
        self.before = self._says()

    def __call__(self) -> float:
        now = self._says()
        return float((now - self.before).square().sum() / self.before.square().sum())

    @torch.no_grad()
    def _says(self) -> Tensor:
        components, count = self.components, len(self.PROMPTS)
        side = components.size // components.vae_factor
        shape = (components.latent_channels, side, side)
        x = torch.stack([torch.randn(shape, generator=generator(self.seed, "drift", i)) for i in range(count)])
        steps = len(components.alphas())
        times = torch.tensor([(2 * i + 1) * steps // (2 * count) for i in range(count)], device=components.device)
        told = self.texts(self.PROMPTS).sized((components.size, components.size))
        return predict(components, x, times, told).float().cpu()
