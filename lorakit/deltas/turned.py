"""OFT as PEFT has it: blocks of inputs rotated (Qiu et al., 2023; 2025), where LyCORIS and sd-scripts rotate outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from lorakit.algebra import as_type
from lorakit.arrays import Array, floats
from lorakit.delta import Delta
from lorakit.deltas._parts import take

SUFFIXES = frozenset({"oft_R"})


@dataclass(frozen=True)
class Turned(Delta):
    """delta = base @ Rᵀ - base, over the inputs, kernel and all; R of blocks of b successive ones.

    blocks [n, b, b], each a block of R - I, n * b = in * kh * kw; a single block is of all.
    """

    kind: ClassVar[str] = "turned"
    needs_base: ClassVar[bool] = True

    blocks: Array

    @property
    def shape(self) -> None:
        return None

    def delta(self, base: Array | None = None) -> Array:
        frozen = self.against(base, self.blocks)
        (n, b), inputs = self.blocks.shape[:2], prod(frozen.shape[1:])
        if inputs % b or n not in (1, inputs // b):
            raise ValueError(f"oft_R turns {n * b} inputs, and the base model's weight has {inputs}")
        rows = frozen.reshape(frozen.shape[0], inputs // b, 1, b)
        return (rows @ as_type(floats(self.blocks), frozen).swapaxes(1, 2)).reshape(frozen.shape)


def matches(parts: Mapping[str, Array]) -> bool:
    return "oft_R" in parts


def read(parts: Mapping[str, Array], shape: tuple[int, ...] | None) -> Turned:
    (blocks,) = take(parts, "oft_R")
    if blocks.ndim != 3 or blocks.shape[1] != blocks.shape[2]:
        raise ValueError(f"oft_R {tuple(blocks.shape)} are not square blocks, [n, b, b]")
    return Turned(blocks)


def write(delta: Turned) -> dict[str, Array]:
    return {"oft_R": delta.blocks}


def rotations(angles: np.ndarray, terms: int | None) -> np.ndarray:
    """R - I of each block, of the numbers above the diagonal of a skew matrix Q, [n, b * (b - 1) / 2].

    terms   of Neumann's series for Cayley's transform (I + Q) (I - Q)⁻¹, as PEFT cuts it; None for (I - Q) (I + Q)⁻¹ itself
    """
    b = round((1 + (1 + 8 * angles.shape[1]) ** 0.5) / 2)
    if b * (b - 1) // 2 != angles.shape[1]:
        raise ValueError(f"oft_R {tuple(angles.shape)} does not fill a skew matrix")
    q = np.zeros((angles.shape[0], b, b))
    q[:, *np.triu_indices(b, 1)] = angles
    q -= q.swapaxes(1, 2)
    if terms is None:
        return -2 * q @ np.linalg.inv(np.eye(b) + q)
    series: Any = 2 * q if terms > 1 else np.zeros_like(q)
    if terms > 2:
        power = q @ q
        series = series + 2 * power
        for _ in range(3, terms - 1):
            power = power @ q
            series = series + 2 * power
        series = series + power @ q
    return series
