"""LoHa: the entrywise product of two low-rank matrices (FedPara, Hyeon-Woo et al., 2021; LyCORIS, Yeh et al., 2023)."""

from __future__ import annotations

from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from lorakit.delta import Delta
from lorakit.deltas.loha import LoHa
from lorakit.training.variants import _fused
from lorakit.training.variants._branch import DenseBranch, Draw, Spec
from lorakit.training.variants._low_rank import scale

__all__ = ["Branch", "scale", "shapes", "start"]

_SPREAD = {"w1_a": 0.1, "w1_b": 1.0, "w2_a": 0.0, "w2_b": 1.0}  # LyCORIS' own


def shapes(weight: tuple[int, ...], spec: Spec) -> dict[str, tuple[int, ...]]:
    """w_a [out, r], w_b [r, in * kernel], of both halves; the product's rank is up to r²."""
    r = min(spec.rank, weight[0], prod(weight[1:]))
    a, b = (weight[0], r), (r, prod(weight[1:]))
    return {"w1_a": a, "w1_b": b, "w2_a": a, "w2_b": b}


def start(weight: Tensor, spec: Spec, draw: Draw) -> dict[str, Tensor]:
    """Normal numbers but for w2_a, which is zero, and so the delta. `init` has no say."""
    sizes = shapes(tuple(weight.shape), spec)
    return {name: draw(size, name) * _SPREAD[name] for name, size in sizes.items()}


# What a number of a dense delta, and one of long factors, costs beside the products over the tokens, in multiplications,
# forward and backward (measured on a CPU).
_FORMED, _LENGTHENED = 450, 1000


class Branch(DenseBranch):
    """The delta costs a thin product of each half, and is added to the weight; where that is less work it goes beside the
    layer, as the product of factors of rank r² that it is, too."""

    RAISED: ClassVar[frozenset[str]] = frozenset({"w1_a", "w2_a"})
    w1_a: nn.Parameter
    w1_b: nn.Parameter
    w2_a: nn.Parameter
    w2_b: nn.Parameter

    def whole(self, x: Tensor) -> Tensor:
        linear = isinstance(self.base, nn.Linear) and x.device.type == "cpu"
        if not linear or not self._long_is_less(x.numel() // x.shape[-1]):
            return super().whole(x)
        down = (self.w1_b[:, None] * self.w2_b[None]).flatten(0, 1)
        up = (self.w1_a[:, :, None] * self.w2_a[:, None]).flatten(1)
        return _fused.linear(x, self.base.weight, self.base.bias, down=down, up=up, scale=self.spec.scale)

    def _long_is_less(self, tokens: int) -> bool:
        r, (out, width) = self.w1_b.shape[0], self.base.weight.shape
        long = r * r * (out + width) * (3 * tokens + _LENGTHENED)
        return bool(long < out * width * (tokens + 6 * r + _FORMED))

    def dense(self) -> Tensor:
        # The scale on a thin factor saves a pass over the whole weight, forward and backward.
        halves = (self.w1_a * self.spec.scale @ self.w1_b) * (self.w2_a @ self.w2_b)
        return halves.view(self.base.weight.shape)

    def delta(self) -> Delta:
        w1_a, w1_b, w2_a, w2_b = (x.detach().clone() for x in (self.w1_a, self.w1_b, self.w2_a, self.w2_b))
        shape = tuple(self.base.weight.shape)
        return LoHa(
            w1_a, w1_b, w2_a, w2_b, self.spec.scale * w1_b.shape[0], flattened=shape if len(shape) > 2 else None
        )

    @torch.no_grad()
    def take(self, delta: Delta) -> float:
        delta = delta.materialised()
        own = [self.w1_a, self.w1_b, self.w2_a, self.w2_b]
        if not isinstance(delta, LoHa) or delta.t1 is not None:
            raise ValueError(f"a {delta.kind} delta is no LoHa without a core")
        theirs = [torch.as_tensor(x).float() for x in (delta.w1_a, delta.w1_b, delta.w2_a, delta.w2_b)]
        if [tuple(x.shape) for x in theirs] != [tuple(x.shape) for x in own]:
            raise ValueError(
                f"a LoHa of rank {delta.rank} for a weight of {tuple(self.base.weight.shape)} at rank {own[1].shape[0]}"
            )
        for parameter, x in zip(own, theirs, strict=True):
            parameter.copy_(x)
        self.w2_a.mul_(delta.scale / self.spec.scale)
        return 0.0
