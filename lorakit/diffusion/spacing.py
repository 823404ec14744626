"""Numbers by which steps are spaced."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TERMS = 64  # of the series, which halve or better


def beta_quantile(shares: Tensor, a: float = 0.6, b: float = 0.6) -> Tensor:
    """Where the beta distribution of a and b has these shares, 0 to 1, of its mass to the left; float64, any shape.

    Its middle is thin and its ends are thick: steps by it are many at both ends of the noise (Lee et al., 2024).
    """
    p = shares.double()
    low, high = torch.zeros_like(p), torch.ones_like(p)
    for _ in range(64):  # halves: a bit each
        middle = (low + high) / 2
        left = _mass(middle, a, b) < p
        low, high = torch.where(left, middle, low), torch.where(left, high, middle)
    return high.where(p > 0, torch.zeros_like(p)).where(p < 1, torch.ones_like(p))


def _mass(x: Tensor, a: float, b: float) -> Tensor:
    """The share of the mass left of x, from the series of the incomplete beta function on the nearer side."""
    whole = math.exp(math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))

    def near(x: Tensor, a: float, b: float) -> Tensor:
        term, total = torch.ones_like(x), torch.ones_like(x) / a
        for k in range(1, _TERMS):
            term = term * x * (k - b) / k
            total = total + term / (a + k)
        return x**a * total / whole

    return torch.where(x <= 0.5, near(x.clamp(max=0.5), a, b), 1 - near((1 - x).clamp(max=0.5), b, a))
