"""Between the loss and the optimizer: gradients cut to a length, and losses scaled so that float16 holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lorakit.errors import InputError

_SHORT = 2**22  # numbers that are copied for their norm
_SUMMED = 2**12  # of them at a time
# Of numbers of this process's gradients the sum over the processes that hold the rest of them.
Total = Callable[[Tensor], Tensor]


@torch.no_grad()
def clip(gradients: Sequence[Tensor], limit: float, total: Total | None = None) -> Tensor:
    """Scale all gradients in place so that their common length is at most `limit`; those below it keep their bits.

    Gives the length before, [], on the gradients' device: nothing waits for it. A limit of 0 only measures. Where the
    length is not finite the gradients are left for whoever reads it. Pascanu et al., 2013.
    """
    length = _length(gradients)
    if total is not None:
        length = total(length.square()).sqrt()
    if limit > 0 and not (length.device.type == "cpu" and length <= limit):
        factor = (limit / length).clamp(max=1.0)
        torch._foreach_mul_(list(gradients), torch.where(length.isfinite(), factor, torch.ones_like(factor)))
    return length


def _length(gradients: Sequence[Tensor]) -> Tensor:
    """Of all of them as one vector; in float32, a few numbers at a time, as a long sum loses digits. On a CPU a short
    copy of them all costs less than a norm of each."""
    pieces = [g.flatten() for g in gradients]
    if gradients[0].device.type == "cpu" and sum(len(g) for g in pieces) <= _SHORT:
        pieces = list(torch.cat(pieces).split(_SUMMED))
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(pieces, 2, dtype=torch.float32)))


class Scaler:
    """A factor on the loss, without which small gradients are zero in float16 (Micikevicius et al., 2018).

    It doubles after `interval` steps that were finite, and halves at each that was not, which is then to be skipped:

        loss = scaler.scaled(loss); gradients = ...
        if scaler.unscale(gradients): optimizer.step()
    """

    def __init__(self, first: float = 2.0**16, interval: int = 2000, least: float = 1.0) -> None:
        self.factor, self.good, self.interval, self.least = first, 0, interval, least

    def scaled(self, loss: Tensor) -> Tensor:
        return loss * self.factor

    @torch.no_grad()
    def unscale(self, gradients: Sequence[Tensor], total: Total | None = None) -> bool:
        """The gradients, in place, as they are without the factor; whether all are finite. The one wait a step, which
        only float16 has. At the least factor a gradient that is not finite is no longer the factor's fault: the loop
        should stop (`exhausted`)."""
        torch._foreach_mul_(list(gradients), 1 / self.factor)  # a power of two: exact
        wrong = torch.stack([~g.isfinite().all() for g in gradients]).any().float()
        if bool(wrong if total is None else total(wrong)):
            self.factor, self.good = max(self.least, self.factor / 2), 0
            return False
        self.good += 1
        if self.good == self.interval:
            self.factor, self.good = min(self.factor * 2, 2.0**24), 0
        return True

    @property
    def exhausted(self) -> bool:
        """Whether the factor cannot get smaller."""
        return self.factor <= self.least

    def state(self) -> dict[str, Tensor]:
        return {"scaler": torch.tensor([self.factor, float(self.good)], dtype=torch.float64)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """InputError where it is missing."""
        if "scaler" not in tensors:
            raise InputError("the state of the loss scaling is missing: no tensor 'scaler'")
        factor, good = tensors["scaler"].tolist()
        self.factor, self.good = factor, int(good)
