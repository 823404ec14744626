"""The same sum as `linear`, its factors kept side by side as they are (Mangrulkar et al., PEFT, 2022)."""

from __future__ import annotations

from collections.abc import Sequence

from lorakit.deltas.low_rank import LowRank
from lorakit.merging.kernel.terms import Factors, stacked, terms

AS_IS = True  # at full rank the factors are not looked through for directions that repeat


def merge(deltas: Sequence[LowRank | None], weights: Sequence[float]) -> Factors:
    """Every column of every adapter is in the result, so that one can be found again."""
    return stacked(terms(deltas, weights), deltas)
