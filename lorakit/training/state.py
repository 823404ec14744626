"""All that a run must remember between two steps, as one flat set of tensors, and back again to the bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lorakit.errors import InputError
from lorakit.training import optimizers
from lorakit.training.ema import Ema

_PARAMETER, _EMA, _BEST = "parameter/", "ema/", "best/"


class State:
    """Parameters, optimizer, averages and the best validation so far.

    Every random number of a run is a function of its seed and step, so there is nothing else to keep.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, ema: Ema | None = None
    ) -> None:
        self.parameters, self.optimizer, self.ema = dict(parameters), optimizer, ema
        self.best: dict[str, Tensor] = {}

    def tensors(self) -> dict[str, Tensor]:
        found = {_PARAMETER + name: p.detach() for name, p in self.parameters.items()}
        found |= optimizers.state(self.optimizer)
        if self.ema is not None:
            found |= {_EMA + name: x for name, x in self.ema.state().items()}
        return found | {_BEST + name: x for name, x in self.best.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """InputError where a tensor is missing, has another shape, or belongs to nothing."""
        parts = {head: _below(tensors, head) for head in (_PARAMETER, _EMA, _BEST)}
        stray = [key for key in tensors if not key.startswith((*parts, "optimizer"))]
        parameters = parts[_PARAMETER]
        wrong = sorted(parameters.keys() ^ self.parameters.keys()) + stray
        wrong += [n for n, p in self.parameters.items() if n in parameters and parameters[n].shape != p.shape]
        if wrong or bool(parts[_EMA]) != (self.ema is not None):
            raise InputError(f"{source} is not a checkpoint of this run: {', '.join(wrong[:3]) or 'averages'} differ")
        for name, p in self.parameters.items():
            p.copy_(parameters[name])
        try:
            optimizers.restore(self.optimizer, tensors)
            if self.ema is not None:
                self.ema.restore(parts[_EMA])
        except (InputError, KeyError, ValueError) as error:
            raise InputError(f"{source} is not a whole checkpoint: {error}") from error
        self.best = parts[_BEST]


def _below(tensors: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    return {key.removeprefix(head): x for key, x in tensors.items() if key.startswith(head)}
