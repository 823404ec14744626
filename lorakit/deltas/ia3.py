"""(IA)³: every channel of the base weight scaled (Liu et al., 2022; LyCORIS, Yeh et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from lorakit.arrays import Array, floats, number
from lorakit.delta import Delta
from lorakit.deltas._parts import take

SUFFIXES = frozenset({"weight", "on_input"})


@dataclass(frozen=True)
class IA3(Delta):
    """delta = base * weight, one number an input channel or, where not `on_input`, an output channel.

    weight [n], a convolution's [1, n, 1, 1] on either side.
    """

    kind: ClassVar[str] = "ia3"
    needs_base: ClassVar[bool] = True

    weight: Array
    on_input: bool

    @property
    def shape(self) -> None:
        return None

    def delta(self, base: Array | None = None) -> Array:
        frozen = self.against(base, self.weight)
        axis, n = int(self.on_input), prod(self.weight.shape)
        if frozen.shape[axis] != n:
            side = "inputs" if self.on_input else "outputs"
            raise ValueError(f"weight scales {n} {side}, and the base model's weight has {frozen.shape[axis]}")
        return frozen * floats(self.weight).reshape([n if i == axis else 1 for i in range(frozen.ndim)])


def matches(parts: Mapping[str, Array]) -> bool:
    return "on_input" in parts


def read(parts: Mapping[str, Array], shape: tuple[int, ...] | None) -> IA3:
    weight, on_input = take(parts, "weight", "on_input")
    if weight.ndim == 0 or max(weight.shape) != prod(weight.shape):
        raise ValueError(f"weight {tuple(weight.shape)} is not one number a channel")
    return IA3(weight, bool(number(on_input)))


def write(delta: IA3) -> dict[str, Array]:
    return {"weight": delta.weight, "on_input": np.array(delta.on_input, np.int64)}
