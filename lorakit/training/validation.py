"""Which checkpoint is best: the loss on held-out pictures, always with the same noise at the same timesteps.

Two checkpoints are compared pair by pair, picture and timestep, so that what differs between pictures does not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorakit.diffusion.noise import generator
from lorakit.models.conditioning import Conditioning
from lorakit.models.load import Components
from lorakit.models.predict import predict
from lorakit.training.objective import Objective
from lorakit.training.samples import TrainingSource

STRATA = 8


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


def losses(objective: Objective, source: TrainingSource, most: int) -> Tensor:
    """The errors [pictures, STRATA] of the model as it stands at the task that is trained, unweighted, on the CPU; finite
    or not. The first `most` pictures are shown as training shows them: captions, masks, noise and kind of loss."""
    count = min(most, len(source.cached.keys))
    pairs = [(i, stratum) for i in range(count) for stratum in range(STRATA)]
    return objective.errors(source, pairs, STRATA).view(-1, STRATA)


def captions(source: TrainingSource, most: int) -> set[str]:
    """All captions that `losses` shows."""
    return {source.settled(i, stratum) for i in range(min(most, len(source.captions))) for stratum in range(STRATA)}


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
        process = components.process.at((side, side))
        t = torch.tensor([(2 * i + 1) * process.steps // (2 * count) for i in range(count)])
        times = process.told(t).to(components.device)
        told = self.texts(self.PROMPTS).sized((components.size, components.size))
        # An inpainting model is asked to draw the whole picture: its mask is 1 everywhere, and it is shown nothing.
        hole = torch.cat([torch.ones_like(x[:, :1]), torch.zeros_like(x)], 1) if components.inpaints else None
        return predict(components, x, times, told, hole).float().cpu()
