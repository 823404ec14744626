"""Adapters beside the modules of a model: the base weights are never touched, so taking adapters off is exact."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lorakit.deltas.low_rank import LowRank
from lorakit.errors import InputError

# Up to this many numbers in a weight, adding the delta to it costs less than a branch beside it: thin products and
# passes over the output outweigh one more dense product (measured on a CPU, forward and backward).
_SMALL = 2**16
ATTENTION = re.compile(r"attentions\..*\.attn[12]\.to_(q|k|v|out\.0)$")


class Adapted(nn.Module):
    """A linear or convolution layer and low-rank branches: y = base(x) + sum of scale * up(down(x))."""

    base: Any  # nn.Linear or nn.Conv2d

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.downs, self.ups, self.scales = nn.ParameterList(), nn.ParameterList(), list[float]()

    def add(self, down: Tensor, up: Tensor, scale: float) -> None:
        weight = self.base.weight
        for factors, factor in ((self.downs, down), (self.ups, up)):
            factors.append(nn.Parameter(factor.to(weight.device, factor.dtype).clone(), requires_grad=False))
        self.scales.append(scale)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.base.weight
        if weight.ndim == 2 and weight.numel() <= _SMALL and weight.device.type == "cpu" and weight.dtype == x.dtype:
            for down, up, scale in zip(self.downs, self.ups, self.scales, strict=True):
                weight = torch.addmm(weight, up.to(x.dtype), down.to(x.dtype), alpha=scale)
            return functional.linear(x, weight, self.base.bias)
        y = self.base(x)
        for down, up, scale in zip(self.downs, self.ups, self.scales, strict=True):
            y = y + self._branch(x, down.to(x.dtype), up.to(x.dtype)) * scale
        return y

    def _branch(self, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        if isinstance(self.base, nn.Conv2d):
            inner = functional.conv2d(x, down, None, self.base.stride, self.base.padding, self.base.dilation)
            return functional.conv2d(inner, up)
        return functional.linear(functional.linear(x, down), up)


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


def _adapted(root: nn.Module, path: str) -> Adapted:
    module = root.get_submodule(path)
    if not isinstance(module, Adapted):
        module, base = Adapted(module), module
        _replace(root, path, module)
        module.train(base.training)
    return module


def remove(parts: Iterable[nn.Module]) -> None:
    """Take every adapter off."""
    for root in parts:
        for path, module in list(root.named_modules()):
            if isinstance(module, Adapted):
                _replace(root, path, module.base)


def targets(unet: nn.Module, chosen: str) -> list[str]:
    """Paths of the UNet modules that --target names: attention, attention+ff, all, or a regular expression."""
    patterns = {
        "attention": ATTENTION.pattern,
        "attention+ff": r"attentions\..*\.(attn[12]\.|ff\.)",
        "all": "attentions|resnets|samplers",
    }
    pattern = re.compile(patterns.get(chosen, chosen))
    kinds = (nn.Linear, nn.Conv2d)
    found = [path for path, module in unet.named_modules() if isinstance(module, kinds) and pattern.search(path)]
    if not found:
        raise InputError(f"--target {chosen}: no linear or convolution module of the UNet matches")
    return found


def start(
    unet: nn.Module, paths: Iterable[str], rank: int, alpha: float, draw: Callable[[tuple[int, ...], str], Tensor]
) -> dict[str, nn.Parameter]:
    """Put untrained factors beside the modules at `paths`: down normal with spread 1/rank, up zero, float32.

    draw(shape, name) gives standard normal numbers. Gives the trainable parameters by name. Hu et al., 2021.
    """
    parameters = {}
    for path in paths:
        base: Any = unet.get_submodule(path)
        out, fan_in, *kernel = base.weight.shape
        r = min(rank, out, fan_in * (kernel[0] * kernel[1] if kernel else 1))
        module = _adapted(unet, path)
        down = draw((r, fan_in, *kernel), path) / r
        module.add(down, torch.zeros((out, r, *[1 for _ in kernel])), alpha / rank)
        for name, factors in (("down", module.downs), ("up", module.ups)):
            factors[-1].requires_grad_(True)
            parameters[f"unet.{path}.{name}"] = factors[-1]
    return parameters


def collect(parameters: Mapping[str, Tensor], alpha_over_rank: float) -> dict[str, LowRank]:
    """What `start` gave, or a checkpoint kept, as modules of an adapter."""
    names = sorted(name.removesuffix(".down") for name in parameters if name.endswith(".down"))
    return {
        name: LowRank(down, parameters[f"{name}.up"].detach(), alpha_over_rank * down.shape[0])
        for name in names
        for down in [parameters[f"{name}.down"].detach()]
    }
