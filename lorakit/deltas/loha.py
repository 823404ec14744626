"""LoHa: the entrywise product of two low-rank matrices (FedPara, Hyeon-Woo et al., 2021; LyCORIS, Yeh et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

from lorakit.algebra import doubles, gram_norm, through
from lorakit.arrays import Array, floats
from lorakit.delta import Delta
from lorakit.deltas._parts import alpha_of, scalar, take, together, whole

_MATRICES = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
SUFFIXES = frozenset({*_MATRICES, "hada_t1", "hada_t2", "alpha"})
_BLOCK = 1 << 20  # numbers of the delta formed at a time for its norm


@dataclass(frozen=True)
class LoHa(Delta):
    """delta = (w1_a @ w1_b) * (w2_a @ w2_b) * alpha / rank.

    w_a [out, rank], w_b [rank, in], a convolution's [rank, in*kh*kw]. With cores t [rank, rank, kh, kw] each half is a
    Tucker product, w_a [rank, out] and w_b [rank, in]. `flattened` is the shape of the weight where it is known and the
    matrices leave it open.
    """

    kind: ClassVar[str] = "loha"
    exact: ClassVar[bool] = True

    w1_a: Array
    w1_b: Array
    w2_a: Array
    w2_b: Array
    alpha: float
    t1: Array | None = None
    t2: Array | None = None
    flattened: tuple[int, ...] | None = None

    @property
    def rank(self) -> int:
        return int(self.w1_b.shape[0])

    @property
    def low_rank_size(self) -> int:
        sides = (self.w1_a, self.w2_a)
        return prod(int(a.shape[1] if self.t1 is None else a.shape[0]) for a in sides)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def shape(self) -> tuple[int, ...]:
        if self.t1 is not None:
            return (self.w1_a.shape[1], self.w1_b.shape[1], *self.t1.shape[2:])
        return self.flattened or (self.w1_a.shape[0], self.w1_b.shape[1])

    def halves(self) -> list[tuple[Any, Any]]:
        """(a [out, r], b [r, in*kh*kw]) of both, in float32, cores absorbed, scale not applied."""
        both = ((self.w1_a, self.w1_b, self.t1), (self.w2_a, self.w2_b, self.t2))
        return [
            (floats(a), floats(b)) if t is None else (floats(a).T, through(floats(t), floats(b))) for a, b, t in both
        ]

    def factors(self, base: Array | None = None) -> tuple[Array, Array]:
        """Of rank r1 * r2: a product of sums is a sum of products, so row i of `up` is a1[i] ⊗ a2[i] (Khatri-Rao)."""
        (a1, b1), (a2, b2) = self.halves()
        up = (a1[:, :, None] * a2[:, None, :]).reshape(a1.shape[0], -1)
        return up * self.scale, (b1[:, None, :] * b2[None, :, :]).reshape(-1, b1.shape[1])

    def delta(self, base: Array | None = None) -> Array:
        (a1, b1), (a2, b2) = self.halves()
        return ((a1 @ b1) * (a2 @ b2) * self.scale).reshape(self.shape)

    def norm(self, base: Array | None = None) -> float:
        """By Gram matrices, (out + in) * (r1 * r2)² work, or a block of rows of the delta at a time,
        out * in * (r1 + r2), whichever is less; neither holds the whole delta."""
        (a1, b1), (a2, b2) = ((doubles(a), doubles(b)) for a, b in self.halves())
        out, width = a1.shape[0], b1.shape[1]
        if (out + width) * self.low_rank_size**2 < out * width * (a1.shape[1] + a2.shape[1]):
            return gram_norm(*self.factors())
        rows, total = max(1, _BLOCK // width), 0.0
        for i in range(0, out, rows):
            total += float((((a1[i : i + rows] @ b1) * (a2[i : i + rows] @ b2)) ** 2).sum())
        return abs(self.scale) * total**0.5


def matches(parts: Mapping[str, Array]) -> bool:
    return any(key.startswith("hada_") for key in parts) and "dora_scale" not in parts


def read(parts: Mapping[str, Array], shape: tuple[int, ...] | None) -> LoHa:
    a1, b1, a2, b2 = matrices = take(parts, *_MATRICES)
    together(all(x.ndim == 2 for x in matrices), w1_a=a1, w1_b=b1, w2_a=a2, w2_b=b2)
    if "hada_t1" in parts or "hada_t2" in parts:
        t1, t2 = take(parts, "hada_t1", "hada_t2")
        for a, b, t in ((a1, b1, t1), (a2, b2, t2)):
            together(t.ndim == 4 and tuple(t.shape[:2]) == (a.shape[0], b.shape[0]), w_a=a, w_b=b, t=t)
        same = (a1.shape[1], b1.shape[1], *t1.shape[2:]) == (a2.shape[1], b2.shape[1], *t2.shape[2:])
        together(same, w1_a=a1, w1_b=b1, t1=t1, w2_a=a2, w2_b=b2, t2=t2)
        return LoHa(a1, b1, a2, b2, alpha_of(parts, b1.shape[0]), t1, t2)
    ranks = a1.shape[1] == b1.shape[0] and a2.shape[1] == b2.shape[0]
    same = a1.shape[0] == a2.shape[0] and b1.shape[1] == b2.shape[1]
    together(ranks and same, w1_a=a1, w1_b=b1, w2_a=a2, w2_b=b2)
    flattened = whole(shape, (a1.shape[0], b1.shape[1]))
    return LoHa(a1, b1, a2, b2, alpha_of(parts, b1.shape[0]), flattened=flattened)


def write(delta: LoHa) -> dict[str, Array]:
    parts = dict(zip(_MATRICES, (delta.w1_a, delta.w1_b, delta.w2_a, delta.w2_b), strict=True))
    cores = {} if delta.t1 is None else {"hada_t1": delta.t1, "hada_t2": delta.t2}
    return {**parts, **cores, "alpha": scalar(delta.alpha)}
