"""The one training loop: a generator of steps over parameters and a loss that are handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from lorakit.errors import NumericError
from lorakit.training import optimizers
from lorakit.training.gradients import Scaler, Total, clip


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that share a rate and learn at the same steps.

    rate        step (from 0) to the learning rate
    learns      step to whether they learn at it; parameters at rest do not change by a bit
    factors     name to a factor of the rate
    weight      factor of the loss as these parameters see it
    """

    name: str
    parameters: Mapping[str, nn.Parameter]
    rate: Callable[[int], float]
    learns: Callable[[int], bool] = lambda step: True
    factors: Mapping[str, float] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Descent:
    """What a step's forward and backward gave: the loss, a gradient by parameter in the order asked for, and of each
    sample its place in the data, its timestep and its own unweighted loss.

    waited  seconds until its input was there
    """

    loss: Tensor
    gradients: Sequence[Tensor]
    samples: Sequence[str]
    timesteps: Tensor
    errors: Tensor
    waited: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one optimizer step did; `number` counts from 1. Tensors stay where they are until someone reads them.

    found   what the optimizer had found by itself before the step, such as Prodigy's d
    """

    number: int
    loss: Tensor
    norm: Tensor
    rates: Mapping[str, float]
    samples: Sequence[str]
    timesteps: Tensor
    errors: Tensor
    waited: float
    found: Mapping[str, Tensor] = field(default_factory=dict)


class Diverged(NumericError):
    """A loss or gradient that is not finite, at `step` (from 1), with what the step saw."""

    def __init__(self, step: Step) -> None:
        super().__init__(
            f"step {step.number}: the loss is {float(step.loss):g} and the gradient's norm {float(step.norm):g}"
        )
        self.step = step


def finite(step: Step) -> bool:
    return bool(step.loss.isfinite()) and bool(step.norm.isfinite())


def train(
    optimizer: torch.optim.Optimizer,
    groups: Sequence[ParameterGroup],
    descend: Callable[[int, Sequence[nn.Parameter]], Descent],
    steps: int,
    *,
    first: int = 0,
    max_norm: float = 0.0,
    scaler: Scaler | None = None,
    after: Callable[[int, Mapping[str, float]], None] = lambda step, rates: None,
    total: Total | None = None,
) -> Iterator[Step]:
    """Steps `first` to `steps` - 1 of an optimizer that has one parameter group for each of `groups` and factor.

    descend(step, parameters) depends on the step's number and the model alone; after(step, rates by group) may change
    parameters once the optimizer has. total sums over the processes where each has a part of every gradient. Gradients
    longer than max_norm are scaled down to it, 0 leaves them. A step whose gradients do not fit float16 under the
    scaler's factor is left out, until the factor cannot get smaller.

    Diverged, before a parameter changes, where loss or gradient is not finite and the parameters are on the CPU; on
    other devices the reader of the steps looks, so that the device need not wait.
    """
    for step in range(first, steps):
        active = [group for group in groups if group.learns(step)]
        named = {name: p for group in active for name, p in group.parameters.items()}
        rates = {group.name: group.rate(step) for group in active}
        optimizers.set_rates(optimizer, {group.name: rates.get(group.name, 0.0) for group in groups})
        parameters = list(named.values())
        done = descend(step, parameters)
        fits = scaler is None or scaler.unscale(done.gradients, total) or scaler.exhausted
        weights = [group.weight for group in active for _ in group.parameters]
        gradients = [g if w == 1 else g * w for g, w in zip(done.gradients, weights, strict=True)]
        norm = clip(gradients, max_norm, total)
        result = Step(
            number=step + 1,
            loss=done.loss,
            norm=norm,
            rates=rates,
            samples=done.samples,
            timesteps=done.timesteps,
            errors=done.errors,
            waited=done.waited,
            found=optimizers.found(optimizer),
        )
        if norm.device.type == "cpu" and fits and not finite(result):
            raise Diverged(result)
        if fits:
            for p, gradient in zip(parameters, gradients, strict=True):
                p.grad = gradient.to(p.dtype)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                after(step, rates)
        yield result if fits else replace(result, norm=torch.zeros_like(norm))


def optimizer_of(
    groups: Sequence[ParameterGroup], make: Callable[[list[optimizers.OptimizerGroup]], torch.optim.Optimizer]
) -> torch.optim.Optimizer:
    """The optimizer that `make` gives for the parameters of all groups, divided by the factors of their rates."""
    inner = [(group.name, one) for group in groups for one in optimizers.groups_of(group.parameters, group.factors)]
    optimizer = make([one for _, one in inner])
    for (owner, _), group in zip(inner, optimizer.param_groups, strict=True):
        group["owner"] = owner
    return optimizer
