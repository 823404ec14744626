"""BOFT: outputs rotated by a butterfly of small rotations (Liu et al., 2023), as LyCORIS has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from lorakit.algebra import as_type, doubles
from lorakit.arrays import Array
from lorakit.delta import Delta
from lorakit.deltas._cayley import turn
from lorakit.deltas._parts import alpha_of, scalar, take, together

SUFFIXES = frozenset({"oft_blocks", "rescale", "alpha"})


@dataclass(frozen=True)
class BOFT(Delta):
    """delta = rescale * (R_m-1 @ .. @ R_0 @ base) - base; stage i, from 0, turns blocks of
    pairs of outputs, the two of a pair 2**i * b/2 apart.

    blocks [m, n, b, b], n * b = out, b even; rescale [out] or [out, 1, ..]. `alpha` is no scale but the constraint:
    alpha * out is the largest norm of the blocks' skew parts together; 0 is none.
    """

    kind: ClassVar[str] = "boft"
    needs_base: ClassVar[bool] = True

    blocks: Array
    alpha: float = 0.0
    rescale: Array | None = None

    @property
    def shape(self) -> None:
        return None

    @property
    def out(self) -> int:
        return int(self.blocks.shape[1] * self.blocks.shape[2])

    def delta(self, base: Array | None = None) -> Array:
        frozen = self.against(base, self.blocks)
        if frozen.shape[0] != self.out:
            raise ValueError(f"oft_blocks turn {self.out} outputs, and the base model's weight has {frozen.shape[0]}")
        n, b = self.blocks.shape[1:3]
        before = doubles(frozen).reshape(self.out, -1)
        width, moved = before.shape[1], before
        for i, rotation in enumerate(turn(self.blocks, self.alpha * self.out)):
            apart = 2**i * b // 2
            blocks = moved.reshape(-1, 2, apart, width).swapaxes(1, 2).reshape(n, b, width)
            blocks = blocks + rotation @ blocks
            moved = blocks.reshape(-1, apart, 2, width).swapaxes(1, 2).reshape(self.out, width)
        if self.rescale is not None:
            moved = moved * doubles(self.rescale).reshape(-1, 1)
        return as_type((moved - before).reshape(frozen.shape), frozen)


def matches(parts: Mapping[str, Array]) -> bool:
    return "oft_blocks" in parts and parts["oft_blocks"].ndim == 4


def read(parts: Mapping[str, Array], shape: tuple[int, ...] | None) -> BOFT:
    (blocks,) = take(parts, "oft_blocks")
    if blocks.ndim != 4 or blocks.shape[2] != blocks.shape[3] or blocks.shape[2] % 2:
        raise ValueError(f"oft_blocks {tuple(blocks.shape)} are not square blocks of even size, [m, n, b, b]")
    if blocks.shape[1] % 2 ** (blocks.shape[0] - 1):
        raise ValueError(f"oft_blocks {tuple(blocks.shape)} have too many stages for {blocks.shape[1]} blocks")
    (rescale,) = take(parts, "rescale") if "rescale" in parts else (None,)
    if rescale is not None:
        together(prod(rescale.shape) == prod(blocks.shape[1:3]), oft_blocks=blocks, rescale=rescale)
    return BOFT(blocks, alpha_of(parts, 0.0), rescale)


def write(delta: BOFT) -> dict[str, Array]:
    rescale = {} if delta.rescale is None else {"rescale": delta.rescale}
    return {"oft_blocks": delta.blocks, **rescale, "alpha": scalar(delta.alpha)}
