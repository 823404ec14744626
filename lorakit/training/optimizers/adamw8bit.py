"""AdamW with moments of eight bits a number (Dettmers et al., 2022), by bitsandbytes."""

from typing import Any

import torch

from lorakit.runtime.extras import need

RATE = 1e-4


def make(
    groups: list[dict[str, Any]],
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 1e-4,
    min_8bit_size: int = 4096,
) -> torch.optim.Optimizer:
    """Parameters of fewer than `min_8bit_size` numbers keep moments of 32 bits."""
    package = need("bitsandbytes", "8bit", "--optimizer adamw8bit")
    return package.optim.AdamW8bit(groups, betas=betas, eps=eps, weight_decay=weight_decay, min_8bit_size=min_8bit_size)
