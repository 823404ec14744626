"""All that a run must remember between two steps, as one flat set of tensors, and back again to the bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lorakit.errors import InputError
from lorakit.training import optimizers
from lorakit.training.ema import Ema
from lorakit.training.gradients import Scaler

_PARAMETER, _FIXED, _BEST = "parameter/", "fixed/", "best/"


class State:
    """Parameters and what they are measured from, optimizer, averages, loss scaling and the best validation so far.

    Every random number of a run is a function of its seed and step, so there is nothing else to keep.

    fixed   tensors that do not change, such as the factors that a PiSSA adapter started from
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        ema: Ema | None = None,
        scaler: Scaler | None = None,
        fixed: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.parameters, self.optimizer, self.fixed = dict(parameters), optimizer, dict(fixed or {})
        self.ema, self.scaler = ema, scaler
        self.best: dict[str, Tensor] = {}

    def tensors(self) -> dict[str, Tensor]:
        found = {_PARAMETER + name: p.detach() for name, p in self.parameters.items()}
        found |= {_FIXED + name: x for name, x in self.fixed.items()}
        found |= optimizers.state(self.optimizer)
        for more in (self.ema, self.scaler):
            found |= {} if more is None else more.state()
        return found | {_BEST + name: x for name, x in self.best.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """InputError where a tensor is missing, has another shape, or belongs to nothing."""
        parts = {head: _below(tensors, head) for head in (_PARAMETER, _FIXED, _BEST)}
        known = (*parts, "optimizer", *(("ema",) if self.ema else ()), *(("scaler",) if self.scaler else ()))
        stray = [key for key in tensors if not key.startswith(known)]
        wrong = stray + _differing(self.parameters, parts[_PARAMETER]) + _differing(self.fixed, parts[_FIXED])
        wrong += sorted({"losses", "step"} - parts[_BEST].keys()) if parts[_BEST] else []
        if wrong:
            raise InputError(f"{source} is not a checkpoint of this run: {', '.join(wrong[:3])} differ")
        for mine, theirs in ((self.parameters, parts[_PARAMETER]), (self.fixed, parts[_FIXED])):
            for name, x in mine.items():
                x.copy_(theirs[name])
        try:
            optimizers.restore(self.optimizer, tensors)
            for more in (self.ema, self.scaler):
                if more is not None:
                    more.restore(tensors)
        except (InputError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise InputError(f"{source} is not a whole checkpoint: {error}") from error
        self.best = parts[_BEST]


def _differing(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """Names that only one of them has, or with another shape."""
    return [n for n in {**mine, **theirs} if n not in mine or n not in theirs or mine[n].shape != theirs[n].shape]


def _below(tensors: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    return {key.removeprefix(head): x for key, x in tensors.items() if key.startswith(head)}
