"""A low-rank branch, scale * up(down(x)), and how its factors start."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lorakit.delta import Delta
from lorakit.deltas.low_rank import LowRank, plain
from lorakit.lowrank.approximate import as_low_rank
from lorakit.lowrank.factorize import factorize
from lorakit.training.variants import _fused
from lorakit.training.variants._branch import Branch, Draw, Spec, ones_after, spread

INITS = ("gaussian", "kaiming", "pissa")


def scale(rank: int, alpha: float) -> float:
    return alpha / rank


def shapes(weight: tuple[int, ...], spec: Spec) -> dict[str, tuple[int, ...]]:
    """down [r, in, ..] and up [out, r, 1, ..]; r is the rank, or the weight's own where that is less."""
    r = min(spec.rank, weight[0], prod(weight[1:]))
    return {"down": (r, *weight[1:]), "up": (weight[0], r, *ones_after(weight))}


def start(weight: Tensor, spec: Spec, draw: Draw) -> dict[str, Tensor]:
    """The factors, float32. But for pissa their product is zero, since up is.

    gaussian  down normal with spread 1 / r (Hu et al., 2021)
    kaiming   down uniform within 1 / sqrt(inputs), as torch starts a linear layer (He et al., 2015)
    pissa     the weight's leading singular vectors, sharing the values evenly (Meng et al., 2024); the branch subtracts
              them as they were, so that its delta, too, starts at zero
    """
    sizes = shapes(tuple(weight.shape), spec)
    r, fan_in = sizes["down"][0], prod(weight.shape[1:])
    if spec.init == "pissa":
        up, down = _leading(weight.detach().flatten(1).float(), r, draw)
        root = abs(spec.scale) ** 0.5  # scale * up @ down is then the triplets' own product
        return {"down": (down / root).reshape(sizes["down"]), "up": (up / root).reshape(sizes["up"])}
    down = draw(sizes["down"], "down")
    if spec.init == "kaiming":
        down = torch.erf(down * 0.5**0.5) / fan_in**0.5  # of a normal number: uniform in -1 to 1
    elif spec.init == "gaussian":
        down = down / r
    else:
        raise ValueError(f"no init '{spec.init}' (there are: {', '.join(INITS)})")
    return {"down": down, "up": torch.zeros(sizes["up"])}


def _leading(matrix: Tensor, rank: int, draw: Draw) -> tuple[Tensor, Tensor]:
    """(up [out, rank], down [rank, in]) near the best; by subspace iteration where that is less work.

    Halko, Martinsson and Tropp, 2011, algorithm 4.4.
    """
    size = rank + 8
    if 4 * size > min(matrix.shape):
        return factorize(matrix, rank)[:2]
    basis = matrix @ draw((matrix.shape[1], size), "sketch").to(matrix)
    for _ in range(4):
        basis = matrix @ (matrix.T @ torch.linalg.qr(basis)[0])
    basis = torch.linalg.qr(basis)[0]
    up, down, _ = factorize(basis.T @ matrix, rank)
    return basis @ up, down


class LowRankBranch(Branch):
    """y = base(x) + scale * up(down(x)), less the same of the factors it started from where those were not zero."""

    RAISED: ClassVar[frozenset[str]] = frozenset({"up"})
    down: nn.Parameter
    up: nn.Parameter
    down_at_first: Tensor | None
    up_at_first: Tensor | None

    def __init__(self, base: nn.Module, spec: Spec, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(base, spec, tensors)
        kept = spec.init == "pissa"
        for name in ("down", "up"):
            self.register_buffer(f"{name}_at_first", getattr(self, name).detach().clone() if kept else None)

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def units(self) -> int:
        return self.rank

    def pair(self) -> tuple[Tensor, Tensor]:
        """(down, up) whose scaled product is the delta; of twice the rank where the first factors are subtracted."""
        if self.down_at_first is None or self.up_at_first is None:
            return self.down, self.up
        return torch.cat([self.down, self.down_at_first]), torch.cat([self.up, -self.up_at_first], 1)

    def branch_mask(self) -> Tensor | None:
        """[b, columns of `pair`]: the subtracted factors share the trained ones' fate."""
        mask = self.mask()
        return mask if mask is None or self.down_at_first is None else torch.cat([mask, mask], 1)

    def forward(self, x: Tensor) -> Tensor:
        kind, mask, (down, up) = self.working(x), self.branch_mask(), self.pair()
        down, up = down.to(kind), up.to(kind)
        if isinstance(self.base, nn.Conv2d):
            inner = self.convolved(x.to(kind), down)
            added = functional.conv2d(inner * spread(mask, inner, True), up)
            return self.plain(x) + added * self.spec.scale
        bias = None if self.base.bias is None else self.base.bias.to(kind)
        return _fused.linear(
            x.to(kind), self.base.weight.to(kind), bias, down=down, up=up, scale=self.spec.scale, mask=mask
        )

    def delta(self) -> Delta:
        down, up = (x.detach().clone() for x in self.pair())
        return LowRank(down, up, self.spec.scale * down.shape[0])

    def idle(self) -> bool:
        if self.down_at_first is None or self.up_at_first is None:
            return super().idle()
        return torch.equal(self.down, self.down_at_first) and torch.equal(self.up, self.up_at_first)

    @torch.no_grad()
    def take(self, delta: Delta) -> float:
        """Any delta that is low rank: a smaller one is filled up with the rows drawn and zeros, a larger one is cut."""
        if self.down_at_first is not None:
            raise ValueError("init pissa starts from the model's weights; go on with another init")
        low, error = plain(delta.materialised()), 0.0
        if low.rank > self.rank:
            low, error = as_low_rank(low, self.rank)
        up, down = (torch.as_tensor(x, dtype=torch.float32, device=self.down.device) for x in low.flat())
        if (up.shape[0], down.shape[1]) != (self.up.shape[0], prod(self.down.shape[1:])):
            raise ValueError(f"a delta of {low.shape} for a weight of {tuple(self.base.weight.shape)}")
        r, ratio = low.rank, low.scale / self.spec.scale
        half = abs(ratio) ** 0.5 or 1.0  # shared evenly: both sides keep a size that trains well
        self.up.zero_()
        self.up[:, :r] = (up * (ratio / half)).view(-1, r, *self.up.shape[2:])
        self.down[:r] = (down * half).view(r, *self.down.shape[1:])
        return error
