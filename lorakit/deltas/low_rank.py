"""LoRA: up @ down, scaled by alpha over rank (Hu et al., 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lorakit.arrays import Array, floats, number
from lorakit.deltas._base import Delta

SUFFIXES = frozenset({"lora_down.weight", "lora_up.weight", "alpha"})


@dataclass(frozen=True)
class LowRank(Delta):
    """delta = up @ down * alpha / rank.

    down [rank, in] or [rank, in, kh, kw], up [out, rank] or [out, rank, 1, 1].
    """

    kind: ClassVar[str] = "lora"

    down: Array
    up: Array
    alpha: float

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.up.shape[0], *self.down.shape[1:])

    def flat(self) -> tuple[Array, Array]:
        """(up [out, rank], down [rank, in*kh*kw]) in float32, scale not applied."""
        up, down = floats(self.up), floats(self.down)
        return up.reshape(up.shape[0], -1), down.reshape(down.shape[0], -1)

    def factors(self) -> tuple[Array, Array]:
        up, down = self.flat()
        return up * self.scale, down


def matches(suffixes: frozenset[str]) -> bool:
    return bool(suffixes & {"lora_down.weight", "lora_up.weight"}) and "lora_mid.weight" not in suffixes


def read(parts: Mapping[str, Array], shape: tuple[int, ...] | None) -> LowRank:
    missing = [key for key in ("lora_down.weight", "lora_up.weight") if key not in parts]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    down, up = parts["lora_down.weight"], parts["lora_up.weight"]
    if down.ndim not in (2, 4) or up.ndim not in (2, 4) or up.shape[1] != down.shape[0] or 0 in (*down.shape, *up.shape):
        raise ValueError(f"down {tuple(down.shape)} and up {tuple(up.shape)} do not belong together")
    if up.ndim == 4 and tuple(up.shape[2:]) != (1, 1):
        raise ValueError(f"up {tuple(up.shape)} has a kernel; expected 1x1")
    return LowRank(down, up, number(parts["alpha"]) if "alpha" in parts else float(down.shape[0]))


def write(delta: LowRank) -> dict[str, Array]:
    import numpy as np

    return {
        "lora_down.weight": delta.down,
        "lora_up.weight": delta.up,
        "alpha": np.array(delta.alpha, np.float32),
    }
