"""Which pictures a step sees: a pure function of (seed, step)."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch

from lorakit.diffusion.noise import generator


@dataclass(kw_only=True)
class Batches:
    """Batches of indices, all of them full: the epochs one after another, cut into pieces of `size`.

    Every index comes once an epoch, the order drawn by (seed, epoch); nothing is dropped or doubled. A batch is of one
    class as far as they go; what is left of the classes is put together, in runs of one class. What is left of an epoch
    shares a batch with the beginning of the next.

    groups  groups[i] is the shape class of index i; an index that is shown several times an epoch stands several
            times, as `pictures` tells
    size    places in a batch, of all processes and micro-steps together
    pictures    which picture an index stands for; default, each its own. Copies of one picture are spread over the
            epoch: a class is gone through once for the first copies, once for the second ones
    """

    groups: Sequence[Hashable]
    size: int
    seed: int
    name: str = "data"
    pictures: Sequence[int] | None = None
    _orders: dict[int, list[int]] = field(default_factory=dict, repr=False)

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

    def _order(self, epoch: int) -> list[int]:
        """All indices as the epoch shows them: first those that fill the batch that the epoch before has begun."""
        draw, size = generator(self.seed, self.name, epoch), self.size
        batches: list[list[int]] = []
        rests: list[list[int]] = []
        for rounds in self._classes.values():
            order = [r[i] for r in rounds for i in torch.randperm(len(r), generator=draw).tolist()]
            whole = len(order) // size * size
            batches += [order[i : i + size] for i in range(0, whole, size)]
            rests += [order[whole:]] * (whole < len(order))
        left = [i for k in torch.randperm(len(rests), generator=draw).tolist() for i in rests[k]]
        first = -epoch * len(self.groups) % size
        while len(left) < first and batches:
            left += batches.pop()
        batches += [left[i : i + size] for i in range(first, len(left) - size + 1, size)]
        tail = max(first, len(left) - (len(left) - first) % size)
        middle = [i for k in torch.randperm(len(batches), generator=draw).tolist() for i in batches[k]]
        return left[:first] + middle + left[tail:]

    def places(self, step: int) -> list[tuple[int, int]]:
        """(epoch, index) of each place in a batch."""
        found = []
        for at in range(step * self.size, (step + 1) * self.size):
            epoch, place = divmod(at, len(self.groups))
            if epoch not in self._orders:
                latest = dict(list(self._orders.items())[-1:])  # a batch begins in one epoch and ends in the next
                self._orders = {**latest, epoch: self._order(epoch)}
            found.append((epoch, self._orders[epoch][place]))
        return found

    def __getitem__(self, step: int) -> list[int]:
        return [i for _, i in self.places(step)]

    def epochs(self, steps: int) -> float:
        """How often so many steps go through all of them."""
        return steps * self.size / len(self.groups)
