"""AdamW (Loshchilov and Hutter, 2019), torch's fused one."""

from typing import Any

import torch

RATE = 1e-4
BY_NUMBER = True


def make(
    groups: list[dict[str, Any]],
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 1e-4,
    fused: bool = True,
) -> torch.optim.Optimizer:
    """All parameters in one kernel; where `fused` is off, in lists (foreach)."""
    return torch.optim.AdamW(groups, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused, foreach=not fused)
