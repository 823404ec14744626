"""The processes of one run: alone, or several that `accelerate launch` or `torchrun` has started."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorakit.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process among `size`. The first one, `main`, reads arguments out loud and writes files."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def main(self) -> bool:
        return self.rank == 0

    def mine(self, i: int) -> bool:
        """Is piece of work number i this process's turn?"""
        return i % self.size == self.rank

    def device(self, asked: str) -> str:
        """`auto` and `cuda` on one of several GPUs are this process's own."""
        if asked not in ("auto", "cuda") or self.size == 1:
            return asked
        import torch

        count = torch.cuda.device_count()
        return f"cuda:{self.local % count}" if count else asked

    def share(self, items: Sequence[object]) -> range:
        """The places among `items` that fall to this process: every size-th from its rank on."""
        return range(self.rank, len(items), self.size)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor becomes its sum over the processes; in one message for each dtype."""
        if self.size == 1:
            return
        import torch
        from torch import distributed

        for dtype in {x.dtype for x in tensors}:
            mine = [x for x in tensors if x.dtype == dtype]
            flat = torch.cat([x.reshape(-1) for x in mine])
            distributed.all_reduce(flat)
            for x, summed in zip(mine, flat.split([x.numel() for x in mine]), strict=True):
                x.copy_(summed.view_as(x))

    def highest(self, number: int) -> int:
        """The greatest of the processes' numbers: a signal that reached one stops all at the same step."""
        if self.size == 1:
            return number
        import torch
        from torch import distributed

        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        found = torch.tensor([number], device=device)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)

    def agree(self, number: int) -> bool:
        """Whether it is the same in all processes."""
        return self.highest(number) == -self.highest(-number)

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            from torch import distributed

            distributed.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """What is inside runs in the main process, then in the others, who find its files."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()


def place() -> World:
    """This process's place by the environment; nothing is joined yet."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    try:
        rank, size, local = (int(os.environ.get(name, default)) for name, default in zip(names, "010", strict=True))
    except ValueError as error:
        raise UsageError(f"{', '.join(names)} in the environment must be whole numbers") from error
    return World(rank, size, local)


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The processes joined for as long as it is open: by NCCL on CUDA, by Gloo elsewhere."""
    world = place()
    if world.size == 1:
        yield world
        return
    import torch
    from torch import distributed

    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield world
    finally:
        distributed.destroy_process_group()
