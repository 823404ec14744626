"""Training modes, one module each: what is trained, at which steps, and what comes out.

A module has `ADAPTERS` (does it train branches?) and `begin(components, config)`, which puts into the model what is to be
trained and gives the `Trained`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from lorakit.adapter import Adapter
from lorakit.training.learned_words import Learned
from lorakit.training.loop import ParameterGroup
from lorakit.training.variants import Attached

Result = Adapter | Mapping[str, Tensor]


def rest(step: int, rates: Mapping[str, float]) -> None:
    """Nothing to do after a step."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run trains.

    groups      of parameters, with their rates by step
    result      the adapter or, by part and name, the changed tensors of a whole model, as they stand now
    text_until  the text encoders change before this step; 0 where they never do
    after       called after each optimizer step with the rates by group
    attached    the branches of adapters, where there are
    learned     the learned tokens, where there are
    notes       what people should know before the first step
    """

    groups: Sequence[ParameterGroup]
    result: Callable[[], Result]
    text_until: int = 0
    after: Callable[[int, Mapping[str, float]], None] = rest
    attached: Attached | None = None
    learned: Learned | None = None
    notes: Sequence[str] = ()

    @contextmanager
    def bare(self) -> Iterator[None]:
        """Inside the `with` the model is as it was before anything was put into it; one trained whole stays as it is."""
        with ExitStack() as stack:
            for part in (self.attached, self.learned):
                if part is not None:
                    stack.enter_context(part.bare())
            yield

    def idle(self) -> list[str]:
        """Modules whose branches change nothing, as they stand now."""
        return [] if self.attached is None else self.attached.idle()

    def unmoved(self) -> list[str]:
        """Learned tokens whose vectors are those they started from."""
        return [] if self.learned is None else self.learned.unmoved()

    @property
    def tokens(self) -> Mapping[str, int]:
        """Learned tokens and how many vectors each has."""
        return {} if self.learned is None else self.learned.vectors

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for group in self.groups for name, p in group.parameters.items()}
