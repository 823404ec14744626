"""Noise schedules: how much of the picture is left at each timestep."""

from __future__ import annotations

import torch
from torch import Tensor


def alphas_cumprod(kind: str, start: float, end: float, steps: int) -> Tensor:
    """The share of the picture's power left at timesteps 0 .. steps-1, [steps], falling, float32.

    kind   of the betas from start to end: linear, or scaled_linear, in a line in their roots, as Stable Diffusion has
           them (Rombach et al., 2022). ValueError for another
    """
    if kind == "linear":
        betas = torch.linspace(start, end, steps, dtype=torch.float64)
    elif kind == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()
    else:
        raise ValueError(f"no schedule of betas '{kind}' (there are: linear, scaled_linear)")
    return (1 - betas).cumprod(0).float()


def snr(alphas: Tensor) -> Tensor:
    """Signal to noise, alphas / (1 - alphas): 0 where nothing of the picture is left, infinite where nothing is lost."""
    return alphas / (1 - alphas)


def zero_terminal(alphas: Tensor) -> Tensor:
    """The schedule bent so that the last timestep has no signal, and the first is as it was, [steps] in and out.

    Roots of alphas are shifted and stretched. Lin et al., 2024, algorithm 1. A model that predicts epsilon learns
    nothing at that timestep: it is for v.
    """
    roots = alphas.double().sqrt()
    bent = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
    return bent.square().to(alphas.dtype)
