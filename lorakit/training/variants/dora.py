"""DoRA: the length of every row or column of the adapted weight learned apart from its direction (Liu et al., 2024)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lorakit.delta import Delta
from lorakit.deltas import dora as kind
from lorakit.training.variants import _low_rank
from lorakit.training.variants._branch import Draw, Spec, ones_after
from lorakit.training.variants._low_rank import LowRankBranch, scale

__all__ = ["AXES", "Branch", "scale", "shapes", "start"]

AXES = {"output": 0, "input": 1}  # which dimension of the weight each has a length for: --dora-axis


def shapes(weight: tuple[int, ...], spec: Spec) -> dict[str, tuple[int, ...]]:
    lengths = (weight[0], 1) if spec.axis == 0 else (1, weight[1])
    return {**_low_rank.shapes(weight, spec), "magnitude": (*lengths, *ones_after(weight))}


def start(weight: Tensor, spec: Spec, draw: Draw) -> dict[str, Tensor]:
    """LoRA's factors, and the lengths as they are. ValueError for pissa, whose delta is of two adapters."""
    if spec.init == "pissa":
        raise ValueError("init pissa is for lora and rslora, not for dora")
    lengths = _squares(weight, spec.axis).sqrt().float().view(shapes(tuple(weight.shape), spec)["magnitude"])
    return {**_low_rank.start(weight, spec, draw), "magnitude": lengths}


def wide(x: Tensor) -> Tensor:
    """The tensor in float64, or in float32 on a device that has no float64."""
    return x.float() if x.device.type == "mps" else x.double()


def _squares(weight: Tensor, axis: int) -> Tensor:
    """The squared lengths of the weight's rows [out] (axis 0) or columns [in] (axis 1)."""
    points = wide(weight.detach()).flatten(2) if weight.ndim > 2 else wide(weight.detach())[..., None]
    return points.square().sum((1 - axis, 2))


class Branch(LowRankBranch):
    """y = W' x + bias with W' = magnitude / length * (base + scale * up @ down), the length of that sum's row or column.

    As in the paper, section 4.3, the length counts as a constant for the gradient.
    """

    magnitude: nn.Parameter
    _squares: Tensor

    def __init__(self, base: nn.Module, spec: Spec, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(base, spec, tensors)
        self.register_buffer("_squares", _squares(self.base.weight, spec.axis), persistent=False)

    @torch.no_grad()
    def _lengths(self) -> Tensor:
        """||base + scale * up @ down|| by row [out] or column [in], float32, without forming the sum."""
        weight, down, up, s = (
            self.base.weight.flatten(1).float(),
            self.down.flatten(1),
            self.up.flatten(1),
            self.spec.scale,
        )
        if self.spec.axis == 0:
            turned = wide(up).T
            across = (wide(down @ weight.T) * turned).sum(0)
            within = ((wide(down @ down.T) @ turned) * turned).sum(0)
        else:
            columns = self.base.weight.shape[1]
            across = (wide(up.T @ weight) * wide(down)).view(self.rank, columns, -1).sum((0, 2))
            within = ((wide(up.T @ up) @ wide(down)) * wide(down)).view(self.rank, columns, -1).sum((0, 2))
        return (self._squares + 2 * s * across + s * s * within).clamp(min=0).sqrt().float()

    def _stretch(self) -> Tensor:
        """magnitude / length, [out] or [in]; exactly 1 before anything is learnt."""
        lengths = self._lengths()
        return self.magnitude.flatten() / torch.where(lengths > 0, lengths, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        stretch = self._stretch()
        convolution = isinstance(self.base, nn.Conv2d)
        if self.spec.axis == 1:  # a stretched column is a stretched input
            return super().forward(x * (stretch[:, None, None] if convolution else stretch).to(x.dtype))
        y, bias = super().forward(x), self.base.bias
        more, bias = (stretch - 1).to(y.dtype), 0.0 if bias is None else bias.to(y.dtype)
        if convolution:
            more, bias = more[:, None, None], bias if isinstance(bias, float) else bias[:, None, None]
        return y + more * (y - bias)  # the bias is not stretched; at first `more` is zero and y the layer's, to the bit

    def delta(self) -> Delta:
        return kind.DoRA(super().delta(), self.magnitude.detach().clone())

    def idle(self) -> bool:
        """Whether nothing is added and the lengths are the layer's own."""
        return not self.up.any() and torch.equal(self.magnitude.flatten(), self._squares.sqrt().float())

    @torch.no_grad()
    def take(self, delta: Delta) -> float:
        """Go on from a DoRA over a low-rank delta with lengths along the same axis, or from a low-rank delta, whose lengths
        are kept; gives the relative error of the low-rank part. ValueError where it does not fit."""
        delta = delta.materialised()
        if not isinstance(delta, kind.DoRA):
            error = super().take(delta)
            self.magnitude.copy_(self._lengths().view_as(self.magnitude))
            return error
        if delta.axis != self.spec.axis:
            theirs, ours = (
                next(name for name, n in AXES.items() if n == axis) for axis in (delta.axis, self.spec.axis)
            )
            raise ValueError(
                f"its lengths are by {theirs}, those trained here by {ours}; train with --dora-axis {theirs}"
            )
        error = super().take(delta.inner)
        self.magnitude.copy_(torch.as_tensor(delta.magnitude).float().view_as(self.magnitude))
        return error
