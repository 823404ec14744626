"""Which timesteps a training sees, and the weights that keep the loss what it was.

Each sample draws one number, uniform in 0 to 1, from its own generator; `Timesteps.at` makes a timestep of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Timesteps:
    """A distribution over timesteps.

    probabilities   [steps], float64, sum 1
    weights         [steps], float32: factor on a sample's loss; 1 where the distribution is what is meant
    """

    probabilities: Tensor
    weights: Tensor

    def at(self, u: Tensor) -> Tensor:
        """Timesteps of u, any shape, float64, 0 to 1: each as often as its probability."""
        edges, last = self._edges
        return torch.searchsorted(edges, u.double(), right=True).clamp(max=last)

    @cached_property
    def _edges(self) -> tuple[Tensor, int]:
        """Where each timestep's share of 0 to 1 ends, and the last one that has any."""
        edges = self.probabilities.cumsum(0)
        return edges / edges[-1], int(self.probabilities.nonzero()[-1])


def uniform(steps: int, first: int = 0, last: int | None = None) -> Timesteps:
    """Every timestep from `first` to `last`, itself included, alike. ValueError for an empty range."""
    last = steps - 1 if last is None else last
    if not 0 <= first <= last < steps:
        raise ValueError(f"timesteps {first} to {last}: expected a range within 0 to {steps - 1}")
    p = torch.zeros(steps, dtype=torch.float64)
    p[first : last + 1] = 1 / (last + 1 - first)
    return Timesteps(p, torch.ones(steps))


def logit_normal(steps: int, mean: float = 0.0, spread: float = 1.0) -> Timesteps:
    """(t + 0.5) / steps is the logistic function of a normal number: the middle more often. Esser et al., 2024."""
    edges = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    reached = torch.special.ndtr((torch.special.logit(edges) - mean) / spread)
    return Timesteps(reached.diff(), torch.ones(steps))


def limited(base: Timesteps, first: int, last: int) -> Timesteps:
    """The same within `first` to `last` alone. ValueError where nothing is left."""
    p = torch.zeros_like(base.probabilities)
    p[first : last + 1] = base.probabilities[first : last + 1]
    if not p.sum() > 0:
        raise ValueError(f"timesteps {first} to {last}: none of {len(p)} is left")
    return Timesteps(p / p.sum(), base.weights)


def importance(base: Timesteps, density: Tensor, share: float = 0.9) -> Timesteps:
    """Timesteps drawn in proportion to base * density, weighted so that the expected loss is base's.

    density   [steps], at least 0: the size of each timestep's loss, or its loss weight; the nearer to that, the less
              the loss varies (Nichol and Dhariwal, 2021)
    share     of the draws that follow it; the rest is as in base, so that no weight is above 1 / (1 - share)
    """
    if density.shape != base.probabilities.shape or not bool((density >= 0).all() and density.isfinite().all()):
        raise ValueError(f"density: expected {len(base.probabilities)} finite numbers of at least 0")
    wanted = base.probabilities * density.double()
    if not wanted.sum() > 0 or not 0 <= share < 1:
        raise ValueError("density: all of it is zero") if 0 <= share < 1 else ValueError(f"share: 0 to 1, got {share}")
    p = share * wanted / wanted.sum() + (1 - share) * base.probabilities
    weights = torch.where(p > 0, base.probabilities / p, torch.zeros_like(p))
    return Timesteps(p, base.weights * weights.float())


def uniform_number(draw: torch.Generator) -> Tensor:
    """One number in 0 to 1, [], float64, from a sample's own generator."""
    return torch.rand((), generator=draw, dtype=torch.float64)


def stratified(u: Tensor, order: Tensor) -> Tensor:
    """Numbers u [b], each uniform, moved into b strata, one each; order [b] is a permutation of 0 .. b-1, drawn for the
    step. A sample's own number stays uniform, and a batch spreads over all timesteps."""
    return (order.double() + u.double()) / len(u)
