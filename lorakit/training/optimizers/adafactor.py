"""Adafactor (Shazeer and Stern, 2018): second moments by row and column, so almost no memory; transformers' own.

With the rate it is given: neither the rate's own schedule nor the scaling by a parameter's size, which would hardly
move a factor that starts at zero.
"""

from typing import Any

import torch

RATE = 1e-4


def make(
    groups: list[dict[str, Any]],
    decay_rate: float = -0.8,
    clip_threshold: float = 1.0,
    beta1: float | None = None,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    from transformers.optimization import Adafactor

    return Adafactor(
        groups,
        decay_rate=decay_rate,
        clip_threshold=clip_threshold,
        beta1=beta1,
        weight_decay=weight_decay,
        scale_parameter=False,
        relative_step=False,
        warmup_init=False,
    )
