"""Prodigy (Mishchenko and Defazio, 2023): Adam that finds its own rate; the run's rate multiplies it, 1 is right.

All of it stays on the device, no number waits for the processor, and groups may have rates of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lorakit.training.optimizers._make import moments

RATE = 1.0
FINDS_RATE = True


class Prodigy(torch.optim.Optimizer):
    """The distance d from start to solution is one for all groups, estimated from the gradients so far.

    d, above   tensors [], float32, in the first group: the estimate, which only grows, and its running numerator
    state      exp_avg, exp_avg_sq, s, the running gradient, and start, the parameter as it was
    """

    def __init__(
        self,
        params: Any,
        betas: tuple[float, float],
        weight_decay: float,
        eps: float,
        d0: float,
        d_coef: float,
        bias_correction: bool,
        safeguard_warmup: bool,
    ) -> None:
        if not d0 > 0:
            raise ValueError(f"d0 must be above 0, got {d0}")
        super().__init__(params, {"betas": betas, "weight_decay": weight_decay, "eps": eps, "d0": d0, "d_coef": d_coef})
        first = self.param_groups[0]
        device = first["params"][0].device
        first |= {"d": torch.tensor(d0, device=device), "above": torch.tensor(0.0, device=device), "k": 0}
        self.bias_correction, self.safeguard_warmup = bias_correction, safeguard_warmup

    def found(self) -> dict[str, Tensor]:
        """The estimate d, which every rate is multiplied by."""
        return {"d": self.param_groups[0]["d"]}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        first = self.param_groups[0]
        (beta1, beta2), d, d0, k = first["betas"], first["d"], first["d0"], first["k"]
        beta3 = beta2**0.5
        correction = ((1 - beta2 ** (k + 1)) ** 0.5 / (1 - beta1 ** (k + 1))) if self.bias_correction else 1.0
        lr = max(group["lr"] for group in self.param_groups) * correction
        above, below = first["above"] * beta3, torch.zeros_like(d)
        moving = [
            (group, [p for p in group["params"] if p.grad is not None])
            for group in self.param_groups
            if group["lr"] > 0
        ]
        pull = d / d0 * d * (1.0 if self.safeguard_warmup else lr)
        for _, moved in moving:
            if not moved:
                continue
            gradients = [p.grad for p in moved]
            for p in moved:
                if not self.state[p]:
                    self.state[p]["start"] = p.detach().clone()
            averages, squares, sums = zip(*[moments(self, p, "exp_avg", "exp_avg_sq", "s") for p in moved], strict=True)
            starts = [self.state[p]["start"] for p in moved]
            gone = torch._foreach_mul(torch._foreach_sub(starts, moved), gradients)
            above = above + d / d0 * d * lr * _total(gone)
            torch._foreach_mul_(averages, beta1)
            torch._foreach_add_(averages, torch._foreach_mul(gradients, d * (1 - beta1)))
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, gradients, torch._foreach_mul(gradients, d * d * (1 - beta2)))
            torch._foreach_mul_(sums, beta3)
            torch._foreach_add_(sums, torch._foreach_mul(gradients, pull))
            below = below + _total(torch._foreach_abs(sums))
        if not any(moved for _, moved in moving):
            return
        now = torch.where(below > 0, torch.maximum(d, first["d_coef"] * above / below), d)
        first |= {"d": now, "above": above, "k": k + 1}
        for group, moved in moving:
            if moved:
                self._move(group, moved, now, d * (group["lr"] * correction))

    def _move(self, group: dict[str, Any], moved: list[Tensor], d: Tensor, rate: Tensor) -> None:
        averages, squares = zip(*[moments(self, p, "exp_avg", "exp_avg_sq") for p in moved], strict=True)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, d * group["eps"])
        ways = torch._foreach_div(averages, roots)
        torch._foreach_mul_(ways, rate)
        if group["weight_decay"]:  # added: 1 - rate * decay would round to 1 while the rate is small
            torch._foreach_add_(moved, torch._foreach_mul(moved, rate * -group["weight_decay"]))
        torch._foreach_sub_(moved, ways)


def _total(tensors: Any) -> Tensor:
    """The sum of all numbers of all tensors, [], in a fixed order."""
    return torch.stack([x.sum() for x in tensors]).sum()


def make(
    groups: list[dict[str, Any]],
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    *,
    eps: float = 1e-8,
    d0: float = 1e-6,
    d_coef: float = 1.0,
    bias_correction: bool = False,
    safeguard_warmup: bool = False,
) -> torch.optim.Optimizer:
    return Prodigy(groups, betas, weight_decay, eps, d0, d_coef, bias_correction, safeguard_warmup)
