"""Training on a few CPU cores: one single-threaded process a core over parameters they share.

A small model on two cores spends more time at the barriers of threaded operators than in arithmetic. Here each process
runs a whole micro-batch alone, and each step's optimizer work is split: a process averages and updates its own shard
of the flat parameter vector, so nothing is copied between processes but gradients.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import multiprocessing as mp
from torch.nn import Parameter


class SharedParameters:
    """Flat parameters, their running average, and one gradient vector a process, all in shared memory."""

    def __init__(self, count: int, world: int) -> None:
        self.world = world
        self.values = torch.zeros(count).share_memory_()
        self.average = torch.zeros(count).share_memory_()
        self.moments = torch.zeros(2, count).share_memory_()
        self.gradients = torch.zeros(world, count).share_memory_()
        self.norms = torch.zeros(world, dtype=torch.float64).share_memory_()
        self.loss = torch.zeros(world).share_memory_()
        self.barrier = mp.get_context("spawn").Barrier(world)

    def load(self, parameters: Iterable[Parameter]) -> None:
        self.values.copy_(torch.cat([p.detach().float().flatten() for p in parameters]))
        self.average.copy_(self.values)

    def attach(self, parameters: Iterable[Parameter], rank: int) -> None:
        """Make the module's parameters and gradients views of the shared vectors."""
        start = 0
        for p in parameters:
            end = start + p.numel()
            p.data = self.values[start:end].view_as(p)
            p.grad = self.gradients[rank, start:end].view_as(p)
            start = end

    def read_average(self, parameters: Iterable[Parameter]) -> None:
        start = 0
        for p in parameters:
            p.data = self.average[start : start + p.numel()].view_as(p).clone()
            start += p.numel()

    def step(self, rank: int, number: int, rate: float, *, decay: float, ema: float, clip: float = 1.0) -> None:
        """Average the gradients, clip their norm, and do this process's share of AdamW (Loshchilov and Hutter, 2019)."""
        width = math.ceil(self.values.numel() / self.world)
        shard = slice(rank * width, (rank + 1) * width)
        self.barrier.wait()
        gradient = self.gradients[:, shard].mean(0)
        self.norms[rank] = float(gradient.square().sum())
        self.barrier.wait()
        gradient *= min(1.0, clip / (float(self.norms.sum()) ** 0.5 + 1e-12))
        values, (first, second) = self.values[shard], self.moments[:, shard]
        first.lerp_(gradient, 0.1)
        second.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
        scale = (second / (1 - 0.99 ** (number + 1))).sqrt_().add_(1e-8)
        values.mul_(1 - rate * decay).addcdiv_(first, scale, value=-rate / (1 - 0.9 ** (number + 1)))
        self.average[shard].lerp_(values, 1 - min(ema, (1 + number) / (10 + number)))
        self.gradients[rank].zero_()
        self.barrier.wait()

    def state(self) -> dict[str, Tensor]:
        return {"values": self.values, "average": self.average, "moments": self.moments}

    def restore(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


@dataclass(frozen=True)
class RateCurve:
    """Learning rate by step: a short warm-up, a flat stretch, and a cosine to a thirtieth."""

    peak: float
    steps: int
    warmup: int = 60
    flat: float = 0.4

    def __call__(self, step: int) -> float:
        part = max(0.0, (step / self.steps - self.flat) / (1 - self.flat))
        fall = 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))
        return self.peak * min(1.0, (step + 1) / self.warmup) * fall


def run(world: int, worker: Callable[..., None], *arguments: Any) -> None:
    """Run `worker(rank, *arguments)` in `world` processes; a failure in one is raised here."""
    mp.start_processes(worker, args=arguments, nprocs=world, start_method="spawn")
