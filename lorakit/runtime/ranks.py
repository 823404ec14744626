"""Which of several processes of one launch this is, as accelerate and torchrun say it in the environment."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Rank:
    """`number` of `world` processes; `local` counts those of this machine."""

    number: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        return self.number == 0

    def mine(self, i: int) -> bool:
        """Is piece of work number i this process's turn?"""
        return i % self.world == self.number

    def device(self, asked: str) -> str:
        """`auto` on one of several GPUs is this process's own."""
        if asked != "auto" or self.world == 1:
            return asked
        import torch

        count = torch.cuda.device_count()
        return f"cuda:{self.local % count}" if count else asked


def rank() -> Rank:
    values = {key: os.environ.get(key, "") for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    number, world, local = (int(value) if value.isdigit() else 0 for value in values.values())
    return Rank(number, world, local) if 0 <= number < world else Rank()
