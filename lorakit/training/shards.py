"""The weights of a model that is trained whole, divided among the processes of a run: none holds all of them for longer
than a module needs them, nor all of their gradients or moments (Rajbhandari et al., 2020; torch's `fully_shard`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lorakit.arrays import Array, Stored, dtype_of, raw
from lorakit.errors import UsageError
from lorakit.runtime.sharding import Sharding
from lorakit.runtime.world import World

_DONE = -1


class Shards:
    """`parts` of a model, by name, divided by rows: each process has a piece of every parameter.

    parameters  "part.name" to this process's piece, a tensor like any other over the same memory: optimizer, averages and
                checkpoints work on it and know of nothing. One of few rows is empty in some processes
    shapes      "part.name" to the whole parameter's

    A forward or backward pass is one that all processes make together, as often and in the same order.
    """

    def __init__(self, parts: Mapping[str, nn.Module], sharding: Sharding, world: World, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        self.world, self.device, self.sharding = world, device, sharding
        mesh = init_device_mesh(device.type, (world.size,))
        # Gathered as they are kept, in float32: autocast makes of them what it does in one process.
        policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        self.shapes = {
            f"{part}.{n}": tuple(p.shape) for part, module in parts.items() for n, p in module.named_parameters()
        }
        self._modules: list[Any] = []
        for module in parts.values():
            for unit in [*_units(module, sharding.units), module]:
                self._modules.append(fully_shard(unit, mesh=mesh, reshard_after_forward=True, mp_policy=policy))
        for module in self._modules:
            _known_again(module)
            module.set_gradient_divide_factor(1.0)  # sums, no means: every process has its own share of the loss
            module.set_force_sum_reduction_for_comms(True)
        behind: dict[str, Any] = {
            f"{part}.{n}": p for part, module in parts.items() for n, p in module.named_parameters()
        }
        self.parameters = {name: nn.Parameter(p.detach().to_local()) for name, p in behind.items()}
        self._behind: dict[nn.Parameter, Any] = {piece: behind[name] for name, piece in self.parameters.items()}

    @property
    def units(self) -> int:
        """Modules that are gathered one after another."""
        return len(self._modules)

    @contextmanager
    def descending(self) -> Iterator[None]:
        """Around forward passes that have a backward. Weights are kept between the two where that is wished for: never
        else, or a later forward would see old ones."""
        self._regather(self.sharding.regather)
        try:
            yield
        finally:
            self._regather(True)

    def _regather(self, on: bool) -> None:
        for module in self._modules:
            module.set_reshard_after_forward(on, recurse=False)

    def gradients(self, pieces: Sequence[nn.Parameter]) -> list[Tensor]:
        """The sums over the processes of what backward passes have left since the last time, for these pieces."""
        found = []
        for piece in pieces:
            gradient = self._behind[piece].grad
            found.append(torch.zeros_like(piece) if gradient is None else gradient.to_local())
        for parameter in self._behind.values():
            parameter.grad = None
        return found

    def total(self, x: Tensor) -> Tensor:
        """The sum of the processes' x."""
        summed = x.clone()
        torch.distributed.all_reduce(summed)
        return summed

    def divided(self, key: str, x: Tensor) -> bool:
        """Whether a tensor of a run's state, "kind/PARAMETER" or "kind/PARAMETER/more", is a piece as its parameter is."""
        name = _owner(key)
        return name in self.parameters and x.shape == self.parameters[name].shape

    def piece(self, key: str, x: Tensor) -> Tensor:
        """This process's rows of a whole tensor of a run's state; one that is not divided as it is."""
        name = _owner(key)
        if tuple(x.shape) != self.shapes.get(name):
            return x
        rows = -(-len(x) // self.world.size)
        return x[self.world.rank * rows : (self.world.rank + 1) * rows].clone()

    def sizes(self, tensors: Mapping[str, Tensor]) -> int:
        """Bytes of a run's state, once it is whole."""
        shapes = {key: self.shapes[_owner(key)] if self.divided(key, x) else x.shape for key, x in tensors.items()}
        return sum(torch.Size(shapes[key]).numel() * x.element_size() for key, x in tensors.items())

    def lend(self, tensors: Mapping[str, Tensor], use: Callable[[Mapping[str, Array]], object]) -> None:
        """In the main process, use(tensors): all whole, each gathered anew whenever its bytes are read, so that there is
        never more than one. The other processes hand over what is asked of them until it is done or has failed."""
        names = sorted(key for key, x in tensors.items() if self.divided(key, x))
        if not self.world.main:
            while (at := self._told(_DONE)) != _DONE:
                self._gathered(tensors[names[at]], self.shapes[_owner(names[at])])
            return
        whole: dict[str, Array] = dict(tensors)
        for at, key in enumerate(names):
            shape = self.shapes[_owner(key)]
            whole[key] = Stored(dtype_of(tensors[key]), shape, partial(self._asked, at, tensors[key], shape))
        try:
            use(whole)
        finally:
            self._told(_DONE)

    def _asked(self, at: int, piece: Tensor, shape: tuple[int, ...]) -> Any:
        self._told(at)
        return raw(self._gathered(piece, shape))

    def _told(self, number: int) -> int:
        """The main process's number, in all."""
        told = torch.tensor([number], device=self.device)
        torch.distributed.broadcast(told, 0)
        return int(told)

    def _gathered(self, piece: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The whole tensor in the main process, the piece elsewhere."""
        rows = -(-shape[0] // self.world.size)
        padded = piece.new_zeros((rows, *shape[1:]))
        padded[: len(piece)] = piece
        into = [torch.empty_like(padded) for _ in range(self.world.size)] if self.world.main else None
        torch.distributed.gather(padded, into)
        return piece if into is None else torch.cat(into)[: shape[0]]

    def whole(self) -> dict[str, Tensor]:
        """All parameters, whole, on the CPU in the main process; nothing elsewhere."""
        found: dict[str, Tensor] = {}
        keys = {f"parameter/{name}": p.detach() for name, p in self.parameters.items()}
        self.lend(keys, lambda them: found.update({_owner(key): x.tensor() for key, x in them.items()}))
        return found


def _known_again(module: nn.Module) -> None:
    """`fully_shard` gives a module's class another name, and by that transformers looks up which states it can tell."""
    can = getattr(module, "_can_record_outputs", None)
    if can:
        from transformers.utils import output_capturing

        output_capturing._CAN_RECORD_REGISTRY[module] = can


def _owner(key: str) -> str:
    return key.partition("/")[2].partition("/")[0]


def _units(module: nn.Module, classes: Sequence[str]) -> list[nn.Module]:
    """The modules below `module` of these classes, or of those that its author would not have split; inner ones first."""
    names = set(classes) or set(getattr(module, "_no_split_modules", None) or ())
    found = [m for m in module.modules() if m is not module and type(m).__name__ in names]
    if classes and not found:
        raise UsageError(
            f"FSDP_TRANSFORMER_CLS_TO_WRAP {','.join(classes)}: {type(module).__name__} has no such modules"
        )
    return found[::-1]
