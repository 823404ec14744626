"""LoKr: a Kronecker product (KronA, Edalati et al., 2022; LyCORIS, Yeh et al., 2023)."""

from __future__ import annotations

from math import isqrt
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lorakit.delta import Delta
from lorakit.deltas.lokr import LoKr
from lorakit.training.variants._branch import Branch as Base
from lorakit.training.variants._branch import Draw, Spec, spread
from lorakit.training.variants._low_rank import scale

__all__ = ["Branch", "scale", "shapes", "start"]

_LARGEST = 16  # rows of the first factor: with more it holds more numbers than the second


def split(size: int) -> tuple[int, int]:
    """(a, b), a * b = size, a the largest divisor up to its root and to 16."""
    a = max(d for d in range(1, min(isqrt(size), _LARGEST) + 1) if size % d == 0)
    return a, size // a


def shapes(weight: tuple[int, ...], spec: Spec) -> dict[str, tuple[int, ...]]:
    """w1 [o1, i1] whole; w2 [o2, i2, ..] as w2_a @ w2_b of the rank, or whole where that holds no more numbers."""
    (o1, o2), (i1, i2), kernel = split(weight[0]), split(weight[1]), weight[2:]
    wide = i2
    for side in kernel:
        wide *= side
    if spec.rank * (o2 + wide) >= o2 * wide:
        return {"w1": (o1, i1), "w2": (o2, i2, *kernel)}
    return {"w1": (o1, i1), "w2_a": (o2, spec.rank), "w2_b": (spec.rank, wide)}


def start(weight: Tensor, spec: Spec, draw: Draw) -> dict[str, Tensor]:
    """w1 and w2_b normal, with a spread of one over the root of their width; w2 or w2_a zero. `init` has no say."""
    sizes = shapes(tuple(weight.shape), spec)
    zero = "w2" if "w2" in sizes else "w2_a"
    return {
        name: torch.zeros(size) if name == zero else draw(size, name) / size[1] ** 0.5 for name, size in sizes.items()
    }


class Branch(Base):
    """y = base(x) + scale * x times kron(w1, w2)ᵀ, one factor after the other: the product is never formed.

    Either w2 is there, or w2_a and w2_b.
    """

    RAISED: ClassVar[frozenset[str]] = frozenset({"w2", "w2_a"})
    w1: nn.Parameter
    w2: nn.Parameter
    w2_a: nn.Parameter
    w2_b: nn.Parameter

    @property
    def factor(self) -> float:
        """The scale; 1 where no factor is decomposed, as files of this kind have it."""
        return self.spec.scale if hasattr(self, "w2_a") else 1.0

    def second(self) -> Tensor:
        """w2 [o2, i2, ..]."""
        if not hasattr(self, "w2_a"):
            return self.w2
        kernel = tuple(self.base.weight.shape[2:])
        return (self.w2_a @ self.w2_b).view(self.w2_a.shape[0], -1, *kernel)

    def forward(self, x: Tensor) -> Tensor:
        kind, mask = self.working(x), self.mask()
        w1, w2, convolution = (self.w1 * self.factor).to(kind), self.second().to(kind), isinstance(self.base, nn.Conv2d)
        (o1, i1), o2, i2 = w1.shape, w2.shape[0], w2.shape[1]
        if convolution:
            b, _, *sides = x.shape
            inner = self.convolved(x.to(kind).reshape(b * i1, i2, *sides), w2)
            added = (w1 @ inner.view(b, i1, -1)).view(b, o1 * o2, *inner.shape[2:])
        else:
            inner = functional.linear(x.to(kind).unflatten(-1, (i1, i2)), w2)  # [.., i1, o2]
            added = (w1 @ inner).flatten(-2)
        return self.plain(x) + added * spread(mask, added, convolution)

    def delta(self) -> Delta:
        own = {name: p.detach().clone() for name, p in self.named_parameters()}
        rank = own["w2_b"].shape[0] if "w2_b" in own else 1
        shape = tuple(self.base.weight.shape)
        flattened = shape if "w2_b" in own and len(shape) > 2 else None
        return LoKr(
            self.factor * rank,
            own["w1"],
            None,
            None,
            own.get("w2"),
            own.get("w2_a"),
            own.get("w2_b"),
            flattened=flattened,
        )

    @torch.no_grad()
    def take(self, delta: Delta) -> float:
        delta, own = delta.materialised(), dict(self.named_parameters())
        if not isinstance(delta, LoKr):
            raise ValueError(f"a {delta.kind} delta is no LoKr")
        theirs = {name: torch.as_tensor(x).float() for name, x in delta.arrays().items()}
        sizes = {name: tuple(x.shape) for name, x in theirs.items()}
        if sizes != {name: tuple(p.shape) for name, p in own.items()}:
            raise ValueError(f"a LoKr of {sizes}, and the one trained here is of other sizes")
        for name, parameter in own.items():
            parameter.copy_(theirs[name])
        self.w1.mul_(delta.scale / self.factor)
        return 0.0
