"""What a normalisation layer's weight gains, one number a channel (LyCORIS, Yeh et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lorakit.arrays import Array, floats
from lorakit.delta import Delta
from lorakit.deltas._parts import take

SUFFIXES = frozenset({"w_norm"})


@dataclass(frozen=True)
class Norm(Delta):
    """delta = w_norm [channels]."""

    kind: ClassVar[str] = "norm"

    w_norm: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.w_norm.shape)

    def delta(self, base: Array | None = None) -> Array:
        return floats(self.w_norm)


def matches(parts: Mapping[str, Array]) -> bool:
    return "w_norm" in parts


def read(parts: Mapping[str, Array], shape: tuple[int, ...] | None) -> Norm:
    (w_norm,) = take(parts, "w_norm")
    if w_norm.ndim != 1:
        raise ValueError(f"w_norm {tuple(w_norm.shape)} has {w_norm.ndim} dimensions; expected one, the channels")
    return Norm(w_norm)


def write(delta: Norm) -> dict[str, Array]:
    return {"w_norm": delta.w_norm}
