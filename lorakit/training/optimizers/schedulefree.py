"""Schedule-free AdamW (Defazio et al., 2024): an average of all steps takes the place of a falling rate.

Gradients are taken at y, between the iterate z and their average x. x is what is used and written: `average`, which
`optimizers.averaged` calls. Take a constant rate with it; a warm-up weighs little in the average.
"""

from __future__ import annotations

from typing import Any

import torch

from lorakit.training.optimizers._make import moments

RATE = 3e-4
BY_NUMBER = True


class ScheduleFree(torch.optim.Optimizer):
    """The parameters are y; x = (y - (1 - beta1) z) / beta1.

    Groups hold k, the steps so far, lr_most, the largest rate so far, and weight_sum, the sum of lr_most**2 over steps.
    """

    def __init__(self, params: Any, betas: tuple[float, float], weight_decay: float, eps: float) -> None:
        counts = {"k": 0, "lr_most": 0.0, "weight_sum": 0.0}
        super().__init__(params, {"betas": betas, "weight_decay": weight_decay, "eps": eps, **counts})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            lr, (beta1, beta2), k = group["lr"], group["betas"], group["k"]
            if lr == 0:  # stands still, average and all
                continue
            group["lr_most"] = max(group["lr_most"], lr)
            group["weight_sum"] += (weight := group["lr_most"] ** 2)
            share = weight / group["weight_sum"]
            group["k"] = k + 1
            moved = [p for p in group["params"] if p.grad is not None]
            if not moved:
                continue
            for p in moved:
                if not self.state[p]:
                    self.state[p]["z"] = p.detach().clone()
            gradients, iterates = [p.grad for p in moved], [self.state[p]["z"] for p in moved]
            squares = [moments(self, p, "exp_avg_sq")[0] for p in moved]
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
            roots = torch._foreach_div(squares, 1 - beta2 ** (k + 1))
            torch._foreach_sqrt_(roots)
            torch._foreach_add_(roots, group["eps"])
            ways = torch._foreach_div(gradients, roots)
            torch._foreach_add_(ways, moved, alpha=group["weight_decay"])
            torch._foreach_lerp_(moved, iterates, share)
            torch._foreach_add_(moved, ways, alpha=lr * (beta1 * (1 - share) - 1))
            torch._foreach_sub_(iterates, ways, alpha=lr)

    @torch.no_grad()
    def average(self) -> None:
        """Make the parameters x."""
        for group in self.param_groups:
            for p in group["params"]:
                if p in self.state:
                    p.lerp_(self.state[p]["z"], 1 - 1 / group["betas"][0])


def make(
    groups: list[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0, eps: float = 1e-8
) -> torch.optim.Optimizer:
    return ScheduleFree(groups, betas, weight_decay, eps)
