"""The one training loop: a generator of steps over parameters and a loss that are handed in."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorakit.errors import NumericError
from lorakit.training.rates import rate


@dataclass(frozen=True)
class Step:
    """What one optimizer step did; `number` counts from 1."""

    number: int
    loss: float
    rate: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    steps: int
    peak_rate: float
    schedule: str
    warmup: int
    max_grad_norm: float


class Optimizer:
    """AdamW over named parameters, whose state can be kept and restored to the bit."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.parameters = dict(parameters)
        self.inner = torch.optim.AdamW(
            self.parameters.values(), lr=0.0, betas=(0.9, 0.99), weight_decay=1e-4, fused=True
        )

    def state(self) -> dict[str, Tensor]:
        """Parameters and both moments by name, as one flat set of tensors."""
        tensors = {f"parameter/{name}": p.detach() for name, p in self.parameters.items()}
        for name, p in self.parameters.items():
            tensors |= {f"{key}/{name}": value for key, value in self.inner.state.get(p, {}).items()}
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for name, p in self.parameters.items():
            p.copy_(tensors[f"parameter/{name}"])
            keys = ("step", "exp_avg", "exp_avg_sq")
            self.inner.state[p] = {
                key: tensors[f"{key}/{name}"].to("cpu" if key == "step" else p.device).clone() for key in keys
            }


def train(
    optimizer: Optimizer, descend: Callable[[int], tuple[Tensor, list[Tensor]]], plan: Plan, first: int = 0
) -> Iterator[Step]:
    """Steps `first` to `plan.steps`. descend(step) gives the loss and the gradient by each parameter, in order, and
    depends on the step's number and the parameters alone.

    NumericError, before the parameters change, where loss or gradient is not finite.
    """
    parameters = list(optimizer.parameters.values())
    for step in range(first, plan.steps):
        started = time.monotonic()
        now = rate(step, plan.steps, plan.peak_rate, plan.schedule, plan.warmup)
        for group in optimizer.inner.param_groups:
            group["lr"] = now
        value, gradients = descend(step)
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        limit = plan.max_grad_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        seen, length = float(value.detach()), float(norm)
        if not (seen == seen and abs(seen) < float("inf") and length < float("inf")):
            raise NumericError(f"step {step + 1}: the loss is {seen} and the gradient {length}; try a lower --lr")
        optimizer.inner.step()
        optimizer.inner.zero_grad(set_to_none=True)
        yield Step(step + 1, seen, now, time.monotonic() - started)
