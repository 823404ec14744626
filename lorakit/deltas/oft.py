"""OFT: blocks of outputs rotated (Qiu et al., 2023), as LyCORIS' diag-oft and sd-scripts have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from lorakit.algebra import as_type
from lorakit.arrays import Array, floats
from lorakit.delta import Delta
from lorakit.deltas._cayley import turn
from lorakit.deltas._parts import alpha_of, scalar, take, together

SUFFIXES = frozenset({"oft_blocks", "rescale", "alpha"})


@dataclass(frozen=True)
class OFT(Delta):
    """delta = rescale * (Rᵀ @ base) - base, R of blocks of b successive outputs, turned by Cayley's transform.

    blocks [n, b, b], n * b = out; rescale [out] or [out, 1, ..]. `alpha` is no scale but the constraint: alpha * out is
    the largest norm of the blocks' skew parts together; 0 is none.
    """

    kind: ClassVar[str] = "oft"
    needs_base: ClassVar[bool] = True

    blocks: Array
    alpha: float = 0.0
    rescale: Array | None = None

    @property
    def shape(self) -> None:
        return None

    @property
    def out(self) -> int:
        return int(self.blocks.shape[0] * self.blocks.shape[1])

    def delta(self, base: Array | None = None) -> Array:
        frozen = self.against(base, self.blocks)
        if frozen.shape[0] != self.out:
            raise ValueError(f"oft_blocks turn {self.out} outputs, and the base model's weight has {frozen.shape[0]}")
        rotation = as_type(turn(self.blocks, self.alpha * self.out), frozen).swapaxes(1, 2)
        moved = (rotation @ frozen.reshape(*self.blocks.shape[:2], -1)).reshape(frozen.shape)
        if self.rescale is None:
            return moved
        scale = floats(self.rescale).reshape([self.out] + [1] * (frozen.ndim - 1))
        return scale * moved + (scale - 1) * frozen


def matches(parts: Mapping[str, Array]) -> bool:
    """BOFT has the same endings, and blocks with a dimension more."""
    return parts["oft_blocks"].ndim != 4 if "oft_blocks" in parts else "rescale" in parts


def read(parts: Mapping[str, Array], shape: tuple[int, ...] | None) -> OFT:
    (blocks,) = take(parts, "oft_blocks")
    if blocks.ndim != 3 or blocks.shape[1] != blocks.shape[2]:
        raise ValueError(f"oft_blocks {tuple(blocks.shape)} are not square blocks, [n, b, b] or [m, n, b, b]")
    (rescale,) = take(parts, "rescale") if "rescale" in parts else (None,)
    if rescale is not None:
        together(prod(rescale.shape) == prod(blocks.shape[:2]), oft_blocks=blocks, rescale=rescale)
    return OFT(blocks, alpha_of(parts, 0.0), rescale)


def write(delta: OFT) -> dict[str, Array]:
    rescale = {} if delta.rescale is None else {"rescale": delta.rescale}
    return {"oft_blocks": delta.blocks, **rescale, "alpha": scalar(delta.alpha)}
