"""Which weights the adapters beside a model act at, now."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from lorakit.runtime.weights import Kept

Learned = Callable[[int, str], Tensor]


@dataclass(frozen=True)
class Now:
    """The weights of this step: by adapter; how often the set is used for each time it is composed; sets in place of the
    one, for stretches of the batch that are equally long; and, while weights are learned, a weight with a gradient for
    each adapter and module."""

    weights: tuple[float, ...] = ()
    uses: float = 1.0
    several: tuple[tuple[float, ...], ...] = ()
    learned: Learned | None = None


_NOTHING = Now()


class Gates:
    """The weights in force, of each thread its own, and the composed weights kept. `limit` is in bytes."""

    def __init__(self, limit: int) -> None:
        self.kept = Kept(limit)
        self._local = threading.local()

    @property
    def now(self) -> Now:
        return getattr(self._local, "now", _NOTHING)

    @contextmanager
    def at(self, weights: Sequence[float], uses: float = 1.0, learned: Learned | None = None) -> Iterator[None]:
        """Within, the adapters act at these weights; outside, none acts."""
        with self._set(Now(tuple(weights), uses, learned=learned)):
            yield

    @contextmanager
    def side_by_side(self, sets: Sequence[Sequence[float]]) -> Iterator[None]:
        """The same for a batch in as many equal stretches, each with weights of its own; where `Stack.rowwise`."""
        with self._set(Now(several=tuple(map(tuple, sets)))):
            yield

    @contextmanager
    def _set(self, now: Now) -> Iterator[None]:
        before = self.now
        self._local.now = now
        try:
            yield
        finally:
            self._local.now = before
