"""LoRA: up @ down, scaled by alpha over rank (Hu et al., 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lorakit.arrays import Array, floats
from lorakit.delta import Delta
from lorakit.deltas._parts import alpha_of, is_point, scalar, take, together

SUFFIXES = frozenset({"lora_down.weight", "lora_up.weight", "alpha"})


@dataclass(frozen=True)
class LowRank(Delta):
    """delta = up @ down * alpha / rank.

    down [rank, in] or [rank, in, kh, kw], up [out, rank] or [out, rank, 1, 1].
    """

    kind: ClassVar[str] = "lora"
    exact: ClassVar[bool] = True

    down: Array
    up: Array
    alpha: float

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def low_rank_size(self) -> int:
        return self.rank

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

    def factors(self, base: Array | None = None) -> tuple[Array, Array]:
        up, down = self.flat()
        return up * self.scale, down


def plain(delta: Delta) -> LowRank:
    """A delta that is exactly low rank, as the LowRank of its own factors; TypeError for other kinds."""
    if isinstance(delta, LowRank):
        return delta
    up, down = delta.factors()
    rank, kernel = up.shape[1], (delta.shape or (0, down.shape[1]))[1:]
    return LowRank(down.reshape(rank, *kernel), up.reshape(-1, rank, *[1] * (len(kernel) - 1)), float(rank))


def matches(parts: Mapping[str, Array]) -> bool:
    mine = "lora_down.weight" in parts or "lora_up.weight" in parts
    return mine and "lora_mid.weight" not in parts and "dora_scale" not in parts


def read(parts: Mapping[str, Array], shape: tuple[int, ...] | None) -> LowRank:
    down, up = take(parts, "lora_down.weight", "lora_up.weight")
    together(down.ndim in (2, 4) and up.ndim in (2, 4) and up.shape[1] == down.shape[0], down=down, up=up)
    if not is_point(up):
        raise ValueError(f"up {tuple(up.shape)} has a kernel; expected 1x1")
    return LowRank(down, up, alpha_of(parts, down.shape[0]))


def write(delta: LowRank) -> dict[str, Array]:
    return {"lora_down.weight": delta.down, "lora_up.weight": delta.up, "alpha": scalar(delta.alpha)}
