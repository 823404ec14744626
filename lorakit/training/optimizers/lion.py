"""Lion (Chen et al., 2023): the sign of a momentum, one moment a number. Rates of a third to a tenth of AdamW's."""

from typing import Any

import torch

from lorakit.training.optimizers._make import moments

RATE = 2e-5
BY_NUMBER = True


class Lion(torch.optim.Optimizer):
    def __init__(self, params: Any, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 1e-3) -> None:
        super().__init__(params, {"betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if not moved:
                continue
            gradients, (first, second) = [p.grad for p in moved], group["betas"]
            momenta = [moments(self, p, "exp_avg")[0] for p in moved]
            ways = torch._foreach_lerp(momenta, gradients, 1 - first)
            torch._foreach_sign_(ways)
            torch._foreach_mul_(moved, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(moved, ways, alpha=-group["lr"])
            torch._foreach_lerp_(momenta, gradients, 1 - second)


def make(
    groups: list[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 1e-3
) -> torch.optim.Optimizer:
    return Lion(groups, betas, weight_decay)
