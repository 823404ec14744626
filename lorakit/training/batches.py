"""Which pictures a step sees: a pure function of (seed, step)."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch

from lorakit.diffusion.noise import generator


@dataclass
class Batches:
    """Batches of indices: all of one shape class, every index once an epoch, the order drawn by (seed, epoch).

    groups[i] is the shape class of index i. The last batch of a class may be smaller; none is dropped or doubled.
    """

    groups: Sequence[Hashable]
    size: int
    seed: int
    name: str = "data"
    _epoch: tuple[int, list[list[int]]] = field(default=(-1, []), repr=False)

    def _plan(self, epoch: int) -> list[list[int]]:
        draw = generator(self.seed, self.name, epoch)
        batches = []
        for group in sorted(set(self.groups), key=repr):
            members = [i for i, g in enumerate(self.groups) if g == group]
            order = [members[i] for i in torch.randperm(len(members), generator=draw).tolist()]
            batches += [order[i : i + self.size] for i in range(0, len(order), self.size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=draw).tolist()]

    def __getitem__(self, step: int) -> list[int]:
        if self._epoch[0] < 0:
            self._epoch = (0, self._plan(0))
        epoch, place = divmod(step, len(self._epoch[1]))
        if epoch != self._epoch[0]:
            self._epoch = (epoch, self._plan(epoch))
        return self._epoch[1][place]
