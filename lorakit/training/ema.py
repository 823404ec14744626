"""An average of the parameters over the last steps (Polyak and Juditsky, 1992), which is steadier than the last ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lorakit.errors import InputError


class Ema:
    """average += (1 - decay) * (parameter - average) after each step, float32.

    decay     reached by a warm-up: step k, from 1, takes min(decay, (1 + k) / (10 + k)), so that a short run's average
              is not its start
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be 0 to 1, and below 1, got {decay}")
        self.parameters, self.decay, self.steps = dict(parameters), decay, 0
        self.averages = {name: p.detach().float().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """After the optimizer's step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        now = [self.parameters[name].float() for name in self.averages]
        torch._foreach_lerp_(list(self.averages.values()), now, 1 - decay)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Inside the `with` the parameters are the averages; after it what they were, to the bit."""
        kept = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._put(self.averages)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def state(self) -> dict[str, Tensor]:
        """The averages by "ema/name", and how many steps they are of; its own tensors, not copies."""
        return {"ema": torch.tensor(self.steps), **{f"ema/{name}": x for name, x in self.averages.items()}}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """From `state`; InputError names what is missing."""
        missing = [key for key in self.state() if key not in tensors]
        if missing:
            raise InputError(f"the averages' state is not whole: {', '.join(missing[:4])}")
        self.steps = int(tensors["ema"])
        for name, average in self.averages.items():
            average.copy_(tensors[f"ema/{name}"])
