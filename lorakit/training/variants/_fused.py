"""A frozen linear layer and a low-rank branch as one operator, in as few passes over inputs and outputs as there can be."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Up to this many numbers in a weight, adding the delta to it costs less than the branch's five products and passes
# (measured on a CPU, forward and backward).
SMALL = 2**14


class _Beside(torch.autograd.Function):
    """The branch's thin products are added into the large ones' results: nothing of their size is made besides.

    Thin matrices lie as [r, n]: with [n, r] the same products take up to seven times as long (measured on a CPU).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
        mask: Tensor | None,
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        inner = down @ flat.T
        if mask is not None:
            inner = inner * mask
        y = functional.linear(flat, weight, bias)
        y.addmm_(inner.T, up.T, alpha=scale)
        ctx.save_for_backward(flat, inner, weight, down, up, mask)
        ctx.scale = scale
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, inner, weight, down, up, mask = ctx.saved_tensors
        g = gradients[0].reshape(-1, gradients[0].shape[-1])
        back = (up.T.contiguous() @ g.T) * ctx.scale
        if mask is not None:
            back = back * mask
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = (g @ weight).addmm_(back.T, down).view(*gradients[0].shape[:-1], flat.shape[-1])
        return to_x, None, None, back @ flat, (inner @ g).T * ctx.scale, None, None


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    down: Tensor,
    up: Tensor,
    scale: float,
    mask: Tensor | None = None,
) -> Tensor:
    """x @ weightᵀ + bias + scale * (x @ downᵀ) @ upᵀ, weight and bias frozen, all of one dtype.

    x [b, .., in], weight [out, in], down [r, in], up [out, r]; gives [b, .., out]. mask [b, r] multiplies x @ downᵀ.
    """
    if mask is None and weight.numel() <= SMALL and x.device.type == "cpu" and x.dtype == torch.float32:
        return functional.linear(x, torch.addmm(weight, up, down, alpha=scale), bias)
    if mask is not None:  # to [r, n]
        tokens = x.numel() // (x.shape[0] * x.shape[-1])
        mask = mask.T.unsqueeze(2).expand(-1, -1, tokens).reshape(mask.shape[1], -1).to(x.dtype)
    return _Beside.apply(x, weight, bias, down, up, scale, mask)
