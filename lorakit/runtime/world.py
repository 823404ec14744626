"""The processes of one run: alone, or several that `accelerate launch` or `torchrun` has started."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorakit.errors import LorakitError, UsageError

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
        """`auto` and `cuda` on one of several GPUs are this process's own; `auto` is the CPU for `accelerate launch --cpu`."""
        if asked == "auto" and os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
            return "cpu"
        if asked not in ("auto", "cuda") or self.size == 1:
            return asked
        import torch

        count = torch.cuda.device_count()
        return f"cuda:{self.local % count}" if count else asked

    def dtype(self, asked: str) -> str:
        """`auto` is what `accelerate launch --mixed_precision` names, where it names one."""
        named = {"bf16": "bfloat16", "fp16": "float16"}.get(os.environ.get("ACCELERATE_MIXED_PRECISION", ""))
        return named if asked == "auto" and named else asked

    def share(self, items: Sequence[object], rank: int | None = None) -> range:
        """The places among `items` that fall to this process, or to the one of `rank`: every size-th from there on."""
        return range(self.rank if rank is None else rank, len(items), self.size)

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
    try:
        rank, size, local = (int(_told(names) or default) for names, default in zip(_NAMES, "010", strict=True))
    except ValueError as error:
        first = ", ".join(names[0] for names in _NAMES)
        raise UsageError(f"{first} in the environment must be whole numbers") from error
    return World(rank, size, local)


# By torchrun and accelerate, by Open MPI, by MPICH and Intel's, as accelerate looks for them.
_NAMES = (
    ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"),
    ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
    ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"),
)


def _told(names: Sequence[str]) -> str:
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def one_of_several() -> bool:
    """Whether a launcher has started others beside this process."""
    return _told(_NAMES[1]) not in ("", "1")


def speaks() -> bool:
    """Whether this process says what goes wrong: one on each machine, for what one meets the others there meet too."""
    return _told(_NAMES[2]) in ("", "0")


def alone_by_mistake() -> bool:
    """Whether several processes were wanted and one was started, as `accelerate launch --cpu --num_processes 2` does:
    it names the place to meet, and starts nobody to meet there."""
    return not _told(_NAMES[1]) and "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ


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
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, rank=world.rank, world_size=world.size)
    try:
        yield world
    except RuntimeError as error:
        if not _of_a_peer(error):
            raise
        raise LorakitError(
            "another process of this run has ended; why, it has said itself, or its launcher does. The same command goes "
            "on from the last checkpoint"
        ) from error
    finally:
        distributed.destroy_process_group()


def _of_a_peer(error: RuntimeError) -> bool:
    """Whether a message to or from another process failed, and nothing here."""
    from torch import distributed

    if isinstance(error, distributed.DistError):
        return True
    lost = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")
    return "gloo" in str(error) and any(words in str(error) for words in lost)
