"""Frozen convolutions on a CPU whose weights are laid out once, as the kernels want them, and not at every call."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_ONES = [1, 1]
_GAP = slice(108, 112)  # of oneDNN's description of a layout: between two fields of the C struct, written by nobody


def pack(model: nn.Module) -> int:
    """Let the model's frozen convolutions go through packed weights; how many can.

    On AVX processors oneDNN wants a weight in blocks that depend on the input's shape, and torch's own convolution lays
    it out anew at each call, forward and backward. Kept, they cost twice the weights' memory and save a twentieth of a
    small model's step and a tenth of a larger one's (tests/benchmarks/train.py). In float32 that is done where a gradient
    is asked for, and without one all is as it was, to the bit; in bfloat16, on CPUs that multiply in it, always.
    """
    if not _can():
        return 0
    kinds = {torch.float32, torch.bfloat16} if _multiplies_bfloat16() else {torch.float32}
    found: list[Any] = [module for module in model.modules() if isinstance(module, nn.Conv2d) and _fits(module, kinds)]
    for module in found:
        module._conv_forward = (_Pixelwise if module.kernel_size == (1, 1) else _Spatial)(module)
    return len(found)


def _can() -> bool:
    there = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")  # type: ignore[no-untyped-call]
    return there and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def _multiplies_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _fits(module: nn.Conv2d, kinds: Collection[torch.dtype]) -> bool:
    if type(module) is not nn.Conv2d or "_conv_forward" in vars(module):
        return False
    plain = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    if not plain or isinstance(module.padding, str) or module.weight.device.type != "cpu":
        return False
    if module.kernel_size == (1, 1) and (module.stride, module.padding) != ((1, 1), (0, 0)):
        return False
    still = not any(p.requires_grad for p in module.parameters())
    return still and module.weight.dtype in kinds


class _Convolution:
    """What stands for a module's `_conv_forward`."""

    def __init__(self, module: nn.Conv2d) -> None:
        self._plain: Callable[[Tensor, Tensor, Tensor | None], Tensor] = module._conv_forward
        self.weight, self.bias = module.weight, module.bias

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        own = weight is self.weight and bias is self.bias and not weight.requires_grad
        wanted = torch.is_grad_enabled() or self.weight.dtype != torch.float32
        if own and wanted and x.dtype == self.weight.dtype and not torch.is_autocast_enabled("cpu"):
            return self.packed(x)
        return self._plain(x, weight, bias)

    def packed(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class _Pixelwise(_Convolution):
    """One pixel at a time: a product over the channels, which lie together after a packed convolution."""

    def packed(self, x: Tensor) -> Tensor:
        return functional.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class _Spatial(_Convolution):
    def __init__(self, module: nn.Conv2d) -> None:
        super().__init__(module)
        self._stride, self._padding = list(module.stride), [int(p) for p in module.padding]
        # Backwards, a convolution of stride 1 is one with the weight turned around.
        beyond = [k - 1 - p for k, p in zip(module.kernel_size, self._padding, strict=True)]
        self._turned = beyond if module.stride == (1, 1) and min(beyond) >= 0 else None
        self._there, self._back = _Layouts(self._stride, self._padding), _Layouts(_ONES, beyond)

    def packed(self, x: Tensor) -> Tensor:
        return _Packed.apply(x, self)  # type: ignore[no-any-return, no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        weight = self._there.of(x, self.weight._version, self.weight.detach)
        return _convolved(x, weight, self.bias, self._padding, self._stride)

    def backward(self, g: Tensor, shape: torch.Size) -> Tensor:
        if self._turned is not None:
            weight = self._back.of(g, self.weight._version, self._turn)
            return _convolved(g, weight, None, self._turned, _ONES)
        x = g.new_empty(1).expand(shape)  # only its shape counts
        found = torch.ops.aten.convolution_backward(
            g, x, self.weight, None, self._stride, self._padding, _ONES, False, [0, 0], 1, [True, False, False]
        )
        return found[0]  # type: ignore[no-any-return]

    def _turn(self) -> Tensor:
        return self.weight.detach().flip(2, 3).transpose(0, 1).contiguous()


class _Layouts:
    """A weight as oneDNN wants it for each shape of an input; few of them differ, and each is kept once."""

    def __init__(self, stride: list[int], padding: list[int]) -> None:
        self._stride, self._padding, self._version = stride, padding, -1
        self._by_shape: dict[torch.Size, Tensor] = {}
        self._by_layout: dict[bytes, Tensor] = {}

    def of(self, x: Tensor, version: int, weight: Callable[[], Tensor]) -> Tensor:
        if version != self._version:  # somebody has written to it
            self._by_shape, self._by_layout, self._version = {}, {}, version
        found = self._by_shape.get(x.shape)
        if found is None:
            reorder: Callable[..., Tensor] = torch._C._nn.mkldnn_reorder_conv2d_weight  # its stub lacks the shape
            found = reorder(weight().to_mkldnn(), self._padding, self._stride, _ONES, 1, list(x.shape))
            layout: Tensor = torch.ops.mkldnn._get_mkldnn_serialized_md(found)
            layout[_GAP] = 0
            found = self._by_shape[x.shape] = self._by_layout.setdefault(bytes(layout.numpy()), found)
        return found


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, padding: list[int], stride: list[int]) -> Tensor:
    found = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, stride, _ONES, 1, "none", [], "")
    return found  # type: ignore[no-any-return]


class _Packed(torch.autograd.Function):
    """Keeps no input: a frozen weight has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, convolution: _Spatial) -> Tensor:
        ctx.convolution, ctx.shape = convolution, x.shape
        return convolution.forward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.convolution.backward(gradients[0], ctx.shape) if ctx.needs_input_grad[0] else None, None
