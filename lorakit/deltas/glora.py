"""GLoRA: a low-rank change of the base weight's inputs and a low-rank delta beside it (Chavan et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

from lorakit.algebra import eye, lib_of, through
from lorakit.arrays import Array, floats
from lorakit.delta import Delta
from lorakit.deltas._parts import alpha_of, is_point, scalar, take, together

_MATRICES = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")
SUFFIXES = frozenset({*_MATRICES, "bm.weight", "alpha"})


@dataclass(frozen=True)
class GLoRA(Delta):
    """delta = (base @ a1 @ a2 + b1 @ b2) * alpha / rank.

    a1 [in, rank], a2 [rank, in], b1 [out, rank], b2 [rank, in] or, as a convolution, [rank, in, kh, kw]; with a core bm
    [rank, rank, kh, kw] the second term is a Tucker product. a1 @ a2 acts on the input channels. With `old`, as the
    first LyCORIS wrote it, the two of each pair have changed places: base @ a2 @ a1 + b2 @ b1.
    """

    kind: ClassVar[str] = "glora"
    needs_base: ClassVar[bool] = True

    a1: Array
    a2: Array
    b1: Array
    b2: Array
    alpha: float
    bm: Array | None = None
    old: bool = False

    @property
    def ordered(self) -> tuple[Array, Array, Array, Array]:
        """(a1, a2, b1, b2) in today's order."""
        return (self.a2, self.a1, self.b2, self.b1) if self.old else (self.a1, self.a2, self.b1, self.b2)

    @property
    def rank(self) -> int:
        return int(self.ordered[1].shape[0])

    @property
    def low_rank_size(self) -> int:
        """Twice the rank; with a kernel, a1 @ a2 has the rank once for each of its points."""
        return self.rank * prod(self.shape[2:]) + self.rank

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def shape(self) -> tuple[int, ...]:
        _, _, b1, b2 = self.ordered
        return (b1.shape[0], *b2.shape[1:]) if self.bm is None else (b1.shape[0], b2.shape[1], *self.bm.shape[2:])

    def matrices(self) -> tuple[Any, Any, Any, Any]:
        """(a1 [in, rank], a2 [rank, in], b1 [out, rank], b2 [rank, in*kh*kw]) in float32, scale not applied."""
        a1, a2, b1, b2 = (x.reshape(x.shape[0], -1) for x in map(floats, self.ordered))
        return a1, a2, b1, b2 if self.bm is None else through(floats(self.bm), b2)

    def factors(self, base: Array | None = None) -> tuple[Array, Array]:
        a1, a2, b1, b2 = self.matrices()
        turned = self._frozen(base) @ a1
        points = turned.shape[1]
        wide = (eye(points, a2)[:, None, None, :] * a2[None, :, :, None]).reshape(points * a2.shape[0], -1)
        lib = lib_of(a1)
        up = lib.concatenate([turned.reshape(turned.shape[0], -1), b1], 1)
        return up * self.scale, lib.concatenate([wide, b2], 0)

    def delta(self, base: Array | None = None) -> Array:
        a1, a2, b1, b2 = self.matrices()
        turned = (self._frozen(base) @ a1 @ a2).swapaxes(1, 2)
        return (turned.reshape(turned.shape[0], -1) + b1 @ b2).reshape(self.shape) * self.scale

    def _frozen(self, base: Array | None) -> Any:
        """The base weight as [out, kh*kw, in]."""
        frozen = self.against(base, self.a1)
        if tuple(frozen.shape[:2]) != self.shape[:2] or prod(frozen.shape[2:]) != prod(self.shape[2:]):
            raise ValueError(f"a delta of {self.shape} for a base model's weight of {tuple(frozen.shape)}")
        return frozen.reshape(*frozen.shape[:2], -1).swapaxes(1, 2)


def matches(parts: Mapping[str, Array]) -> bool:
    return any(key in parts for key in (*_MATRICES, "bm.weight"))


def read(parts: Mapping[str, Array], shape: tuple[int, ...] | None) -> GLoRA:
    """The order of the pairs is told by their shapes. In a square weight both may fit: then it is the one that fits
    `shape`, or else has the smaller rank, or else today's."""
    a1, a2, b1, b2 = take(parts, *_MATRICES)
    (bm,) = take(parts, "bm.weight") if "bm.weight" in parts else (None,)
    fitting = []
    if _fits(a1, a2, b1, b2, bm):
        fitting.append(GLoRA(a1, a2, b1, b2, 1.0, bm))
    if bm is None and is_point(b1) and _fits(a2, a1, b2, b1, None):
        fitting.append(GLoRA(a1, a2, b1, b2, 1.0, None, old=True))
    if not fitting:
        together(False, a1=a1, a2=a2, b1=b1, b2=b2, **({} if bm is None else {"bm": bm}))
    known = [delta for delta in fitting if shape and delta.shape[:2] == tuple(shape[:2])]
    delta = min(known or fitting, key=lambda delta: delta.rank)
    return GLoRA(a1, a2, b1, b2, alpha_of(parts, delta.rank), bm, delta.old)


def _fits(a1: Array, a2: Array, b1: Array, b2: Array, bm: Array | None) -> bool:
    if not (is_point(a1) and is_point(a2) and is_point(b1) and b2.ndim in (2, 4) and (bm is None or is_point(b2))):
        return False
    width, rank = a1.shape[:2]
    core = bm is None or (bm.ndim == 4 and tuple(bm.shape[:2]) == (rank, rank))
    return tuple(a2.shape[:2]) == tuple(b2.shape[:2]) == (rank, width) and b1.shape[1] == rank and core


def write(delta: GLoRA) -> dict[str, Array]:
    parts = dict(zip(_MATRICES, (delta.a1, delta.a2, delta.b1, delta.b2), strict=True))
    return {**parts, **({} if delta.bm is None else {"bm.weight": delta.bm}), "alpha": scalar(delta.alpha)}
