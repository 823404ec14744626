"""What is trained beside one frozen layer: y = base(x) + the branch. The layer's own tensors are never touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lorakit.delta import Delta
from lorakit.training.variants._dropout import Masks

Draw = Callable[[tuple[int, ...], str], Tensor]  # shape and name to standard normal numbers


@dataclass(frozen=True)
class Spec:
    """How one branch starts.

    rank    as asked for; a layer too small for it gets less, and the same scale
    scale   of the delta: what the variant's `scale(rank, alpha)` gave
    init    of low-rank factors: gaussian, kaiming or pissa
    axis    of DoRA: 0 for a length of each row (output), 1 of each column (input)
    """

    rank: int
    scale: float
    init: str = "gaussian"
    axis: int = 0


class Branch(nn.Module):
    """The parameters of one layer's branch, float32, and its forward for that layer.

    The layer is not a submodule: neither module tree knows the other, and the layer's state dict stays as it was.
    """

    RAISED: ClassVar[frozenset[str]] = frozenset()  # parameters whose rate LoRA+ raises
    base: Any  # nn.Linear or nn.Conv2d

    def __init__(self, base: nn.Module, spec: Spec, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        object.__setattr__(self, "base", base)
        self.spec, self.masks, self.place = spec, Masks(), slice(0, 0)
        for name, x in tensors.items():
            setattr(self, name, nn.Parameter(x.to(self.base.weight.device, torch.float32)))

    @property
    def units(self) -> int:
        """Columns of a dropout mask: what is left out together, by sample."""
        return int(self.base.weight.shape[0])

    def delta(self) -> Delta:
        """What the branch adds to the layer's weight, over tensors of its own."""
        raise NotImplementedError

    def idle(self) -> bool:
        """Whether it changes nothing of what its layer says."""
        return not self.delta().norm() > 0

    def take(self, delta: Delta) -> float:
        """Go on from `delta`; gives the relative error of what the branch is then. ValueError where it does not fit."""
        raise NotImplementedError

    def plain(self, x: Tensor) -> Tensor:
        """The frozen layer alone."""
        return type(self.base).forward(self.base, x)

    def mask(self) -> Tensor | None:
        """[b, units] of the samples going through, 0 or 1 / (1 - dropout); None where nothing is left out."""
        drawn = self.masks.now()
        return None if drawn is None else drawn[:, self.place].to(self.base.weight.device)

    def convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        """`weight` with the layer's stride and padding, no bias."""
        return self.base._conv_forward(x, weight, None)

    def working(self, x: Tensor) -> torch.dtype:
        """The dtype the layer computes in: autocast's where that is on."""
        kind = x.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.base.weight.dtype


class DenseBranch(Branch):
    """A branch whose whole delta is formed: added to a float32 weight, beside one of less precision, which would lose it."""

    def dense(self) -> Tensor:
        """The delta in the weight's shape, differentiable, float32."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        kind, mask = self.working(x), self.mask()
        if mask is None and kind == torch.float32:
            return self.whole(x)
        added = self._product(x, self.dense().to(kind), None)
        return self.plain(x) + added * spread(mask, added, isinstance(self.base, nn.Conv2d))

    def whole(self, x: Tensor) -> Tensor:
        """The layer and its branch in float32, where nothing is left out."""
        return self._product(x, self.base.weight + self.dense(), self.base.bias)

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(self.base, nn.Conv2d):
            return self.base._conv_forward(x, weight, bias)
        return nn.functional.linear(x, weight, bias)


def spread(mask: Tensor | None, like: Tensor, convolution: bool) -> Tensor | float:
    """A mask [b, units] over `like` [b, units, h, w] or [b, .., units]; 1.0 for none."""
    if mask is None:
        return 1.0
    if convolution:
        return mask[:, :, None, None].to(like.dtype)
    return mask.view(mask.shape[0], *[1] * (like.ndim - 2), mask.shape[1]).to(like.dtype)


def ones_after(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(1, 1) for a convolution's weight, () for a matrix."""
    return (1,) * (len(shape) - 2)
