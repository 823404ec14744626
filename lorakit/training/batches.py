"""Which pictures a step sees: a pure function of (seed, step)."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch

from lorakit.diffusion.noise import generator


@dataclass
class Batches:
    """Batches of indices, every index once an epoch, the order drawn by (seed, epoch).

    groups  groups[i] is the shape class of index i; an index that is shown several times an epoch stands several
            times, as `pictures` tells
    size    places in a batch, of all processes and micro-steps together
    mixed   what is left of the classes at an epoch's end is put together to full batches of several classes, in runs
            of one class; else every class ends in a batch of its own. Nothing is dropped or doubled either way
    pictures    which picture an index stands for; default, each its own. Copies of one picture are spread over the
            epoch: a class is gone through once for the first copies, once for the second ones
    """

    groups: Sequence[Hashable]
    size: int
    seed: int
    name: str = "data"
    mixed: bool = True
    pictures: Sequence[int] | None = None
    _epoch: tuple[int, list[list[int]]] = field(default=(-1, []), repr=False)

    def __post_init__(self) -> None:
        if not len(self.groups) or self.size < 1:
            raise ValueError(f"batches of {self.size} from {len(self.groups)} pictures: both must be at least 1")
        seen: dict[int, int] = {}
        rounds: dict[tuple[str, int], list[int]] = {}
        for i, group in enumerate(self.groups):
            picture = i if self.pictures is None else self.pictures[i]
            seen[picture] = seen.get(picture, -1) + 1
            rounds.setdefault((repr(group), seen[picture]), []).append(i)
        self._classes: dict[str, list[list[int]]] = {}
        for (group, _), members in sorted(rounds.items()):
            self._classes.setdefault(group, []).append(members)

    def _plan(self, epoch: int) -> list[list[int]]:
        draw = generator(self.seed, self.name, epoch)
        batches: list[list[int]] = []
        rests: list[list[int]] = []
        for rounds in self._classes.values():
            order = [r[i] for r in rounds for i in torch.randperm(len(r), generator=draw).tolist()]
            whole = len(order) // self.size * self.size if self.mixed else len(order)
            batches += [order[i : i + self.size] for i in range(0, whole, self.size)]
            rests += [order[whole:]] * (whole < len(order))
        left = [i for k in torch.randperm(len(rests), generator=draw).tolist() for i in rests[k]]
        batches += [left[i : i + self.size] for i in range(0, len(left), self.size)]
        return [batches[i] for i in torch.randperm(len(batches), generator=draw).tolist()]

    def _of(self, step: int) -> tuple[int, list[int]]:
        if self._epoch[0] < 0:
            self._epoch = (0, self._plan(0))
        epoch, place = divmod(step, len(self._epoch[1]))
        if epoch != self._epoch[0]:
            self._epoch = (epoch, self._plan(epoch))
        return epoch, self._epoch[1][place]

    def __getitem__(self, step: int) -> list[int]:
        return self._of(step)[1]

    def epoch(self, step: int) -> int:
        return self._of(step)[0]

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        if self._epoch[0] < 0:
            self._of(0)
        return len(self._epoch[1])
