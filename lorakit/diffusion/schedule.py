"""Noise schedules: how much of the picture is left at each timestep."""

from __future__ import annotations

from torch import Tensor


def zero_terminal(alphas: Tensor) -> Tensor:
    """The schedule bent so that the last timestep has no signal, and the first is as it was, [steps] in and out.

    Roots of alphas are shifted and stretched. Lin et al., 2024, algorithm 1. A model that predicts epsilon learns
    nothing at that timestep: it is for v.
    """
    roots = alphas.double().sqrt()
    bent = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
    return bent.square().to(alphas.dtype)
