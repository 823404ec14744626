"""A whole delta, dense: LyCORIS' `full` algorithm (Yeh et al., 2023), and what extraction leaves where rank does not pay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lorakit.arrays import Array, floats
from lorakit.delta import Delta
from lorakit.deltas._parts import take

SUFFIXES = frozenset({"diff"})


@dataclass(frozen=True)
class Full(Delta):
    """delta = diff, in the weight's shape, whatever that is; no alpha."""

    kind: ClassVar[str] = "full"

    diff: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.diff.shape)

    def delta(self, base: Array | None = None) -> Array:
        return floats(self.diff)


def matches(parts: Mapping[str, Array]) -> bool:
    return "diff" in parts


def read(parts: Mapping[str, Array], shape: tuple[int, ...] | None) -> Full:
    (diff,) = take(parts, "diff")
    if diff.ndim == 0:
        raise ValueError("diff is a single number, expected a weight's delta")
    return Full(diff)


def write(delta: Full) -> dict[str, Array]:
    return {"diff": delta.diff}
