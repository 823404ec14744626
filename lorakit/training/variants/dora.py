"""DoRA: the length of every output's row learned apart from its direction (Liu et al., 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn

from lorakit.deltas import dora as kind
from lorakit.deltas._base import Delta
from lorakit.training.variants import _low_rank
from lorakit.training.variants._branch import Draw, Spec, ones_after
from lorakit.training.variants._low_rank import LowRankBranch, scale

__all__ = ["Branch", "scale", "shapes", "start"]


def shapes(weight: tuple[int, ...], spec: Spec) -> dict[str, tuple[int, ...]]:
    return {**_low_rank.shapes(weight, spec), "magnitude": (weight[0], 1, *ones_after(weight))}


def start(weight: Tensor, spec: Spec, draw: Draw) -> dict[str, Tensor]:
    """LoRA's factors, and the rows' lengths as they are. ValueError for pissa, whose delta is of two adapters."""
    if spec.init == "pissa":
        raise ValueError("init pissa is for lora and rslora, not for dora")
    rows = _row_squares(weight).sqrt().float()
    return {**_low_rank.start(weight, spec, draw), "magnitude": rows.view(-1, 1, *ones_after(tuple(weight.shape)))}


def wide(x: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return x.float() if x.device.type == "mps" else x.double()


def _row_squares(weight: Tensor) -> Tensor:
    """Of the rows' lengths, [out]."""
    return wide(weight.detach()).flatten(1).square().sum(1)


class Branch(LowRankBranch):
    """y = stretch * (base + scale * up @ down)(x) + bias, stretch = magnitude / length of that sum's row.

    As in the paper, section 4.3, the length counts as a constant for the gradient.
    """

    magnitude: nn.Parameter
    _squares: Tensor

    def __init__(self, base: nn.Module, spec: Spec, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(base, spec, tensors)
        self.register_buffer("_squares", _row_squares(self.base.weight), persistent=False)

    @torch.no_grad()
    def _lengths(self) -> Tensor:
        """||base + scale * up @ down|| by row, [out], float32, without forming the sum."""
        weight, down, up = self.base.weight.flatten(1).float(), self.down.flatten(1), wide(self.up.flatten(1)).T
        s = self.spec.scale
        across = (wide(down @ weight.T) * up).sum(0)
        within = ((wide(down @ down.T) @ up) * up).sum(0)
        return (self._squares + 2 * s * across + s * s * within).clamp(min=0).sqrt().float()

    def forward(self, x: Tensor) -> Tensor:
        y, lengths, bias = super().forward(x), self._lengths(), self.base.bias
        stretch = self.magnitude.flatten() / torch.where(lengths > 0, lengths, 1.0)
        more, bias = (stretch - 1).to(y.dtype), 0.0 if bias is None else bias.to(y.dtype)
        if isinstance(self.base, nn.Conv2d):
            more, bias = more[:, None, None], bias if isinstance(bias, float) else bias[:, None, None]
        return y + more * (y - bias)  # the bias is not stretched; at first `more` is zero and y the layer's, to the bit

    def delta(self) -> Delta:
        return kind.DoRA(super().delta(), self.magnitude.detach().clone())

    def idle(self) -> bool:
        """Where nothing is added and the lengths are the layer's own."""
        return not self.up.any() and torch.equal(self.magnitude.flatten(), self._squares.sqrt().float())

    @torch.no_grad()
    def take(self, delta: Delta) -> float:
        """A DoRA delta over a low-rank one with lengths by output, or a low-rank delta, whose rows' lengths it keeps."""
        delta = delta.materialised()
        if not isinstance(delta, kind.DoRA):
            error = super().take(delta)
            self.magnitude.copy_(self._lengths().view_as(self.magnitude))
            return error
        if delta.axis != 0 or prod(delta.magnitude.shape) != self.magnitude.numel():
            raise ValueError("its lengths are by input; those trained here are by output")
        error = super().take(delta.inner)
        self.magnitude.copy_(torch.as_tensor(delta.magnitude).float().view_as(self.magnitude))
        return error
