"""LoCon with a core: a convolution by Tucker's decomposition (Tucker, 1966), as LyCORIS trains it (Yeh et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lorakit.algebra import through
from lorakit.arrays import Array, floats
from lorakit.delta import Delta
from lorakit.deltas._parts import alpha_of, is_point, scalar, take, together

SUFFIXES = frozenset({"lora_down.weight", "lora_mid.weight", "lora_up.weight", "alpha"})


@dataclass(frozen=True)
class Tucker(Delta):
    """delta[o, i, y, x] = sum over m, n of up[o, m] * mid[m, n, y, x] * down[n, i], times alpha / rank.

    down [rank, in] or [rank, in, 1, 1], mid [m, rank, kh, kw], up [out, m] or [out, m, 1, 1]; m is the rank as well.
    """

    kind: ClassVar[str] = "tucker"
    exact: ClassVar[bool] = True

    down: Array
    mid: Array
    up: Array
    alpha: float

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def low_rank_size(self) -> int:
        return int(self.up.shape[1])

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.up.shape[0], self.down.shape[1], *self.mid.shape[2:])

    def factors(self, base: Array | None = None) -> tuple[Array, Array]:
        up, mid, down = floats(self.up), floats(self.mid), floats(self.down)
        return up.reshape(up.shape[0], -1) * self.scale, through(mid, down.reshape(down.shape[0], -1))


def matches(parts: Mapping[str, Array]) -> bool:
    return "lora_mid.weight" in parts and "dora_scale" not in parts


def read(parts: Mapping[str, Array], shape: tuple[int, ...] | None) -> Tucker:
    down, mid, up = take(parts, "lora_down.weight", "lora_mid.weight", "lora_up.weight")
    fits = is_point(down) and is_point(up) and mid.ndim == 4 and tuple(mid.shape[:2]) == (up.shape[1], down.shape[0])
    together(fits, down=down, mid=mid, up=up)
    return Tucker(down, mid, up, alpha_of(parts, down.shape[0]))


def write(delta: Tucker) -> dict[str, Array]:
    return {
        "lora_down.weight": delta.down,
        "lora_mid.weight": delta.mid,
        "lora_up.weight": delta.up,
        "alpha": scalar(delta.alpha),
    }
