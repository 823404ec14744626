"""Which units of the branches a sample goes without: drawn once a step and sample, not inside the layers.

So the draw is a function of its key, the same when gradient checkpointing computes a layer again, and independent of
which samples share a batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor


def draw(generators: Sequence[torch.Generator], units: int, dropout: float) -> Tensor:
    """[b, units] of 0, with probability `dropout`, and 1 / (1 - dropout): row i by generators[i] alone."""
    keep = 1 - dropout
    rows = [(torch.rand(units, generator=g) < keep).float() / keep for g in generators]
    return torch.stack(rows)


class Masks:
    """The masks in force for the samples that are going through, by thread.

    Autograd computes checkpointed layers again in a thread of its own on accelerators, which has no context; there one
    batch goes through at a time, and the latest masks are that batch's.
    """

    def __init__(self) -> None:
        self._here: ContextVar[Tensor | bool | None] = ContextVar("masks", default=False)  # False: no context
        self._latest: Tensor | None = None

    def now(self) -> Tensor | None:
        found = self._here.get()
        return self._latest if isinstance(found, bool) else found

    @contextmanager
    def using(self, masks: Tensor | None) -> Iterator[None]:
        """Hold it until the backward pass is done."""
        token = self._here.set(masks)
        self._latest = masks
        try:
            yield
        finally:
            self._here.reset(token)
            self._latest = None
