"""The leading singular triplets of a delta: what ranks are chosen from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lorakit.algebra import doubles
from lorakit.deltas.low_rank import LowRank
from lorakit.lowrank.compress import single, spectrum


@dataclass(frozen=True, kw_only=True)
class Decomposed:
    """delta = u * s @ vh + what was not taken.

    u [out, k], s [k] falling, vh [k, in*kh*kw], float32, all numpy or all torch; shape of the weight
    total   squared Frobenius norm of the whole delta, so that total - sum(s²) is what the triplets leave
    floor   singular values up to this are rounding noise of the files the delta comes from; 0 where none is known
    slack   by how much, relative to the norm, the error at any rank may exceed the optimum's (a certificate); 0 is exact
    """

    u: Any
    s: Any
    vh: Any
    shape: tuple[int, ...]
    total: float
    floor: float = 0.0
    slack: float = 0.0

    @property
    def numbers_a_rank(self) -> int:
        """How many numbers one more rank costs: out + in*kh*kw."""
        return int(self.u.shape[0] + self.vh.shape[1])

    def kept(self, rank: int) -> float:
        """The share of the squared norm that the first `rank` triplets hold, 0 to 1; 1 of a delta that is 0."""
        if self.total <= 0:
            return 1.0
        return min(1.0, float((doubles(self.s[:rank]) ** 2).sum()) / self.total)

    def error(self, rank: int) -> float:
        """||delta - the first `rank` triplets|| / ||delta||."""
        return max(0.0, 1.0 - self.kept(rank)) ** 0.5

    def cut(self, rank: int) -> LowRank:
        """The best adapter of this rank, alpha = rank, the singular values shared evenly. Eckart and Young, 1936."""
        k = max(1, min(rank, len(self.s)))
        root = self.s[:k] ** 0.5
        down, up = root[:, None] * self.vh[:k], self.u[:, :k] * root
        ones = (1,) * (len(self.shape) - 2)
        return LowRank(down.reshape(k, *self.shape[1:]), up.reshape(-1, k, *ones), float(k))


def of_factors(up: Any, down: Any, shape: tuple[int, ...], floor: float = 0.0) -> Decomposed:
    """All triplets of up [out, r] @ down [r, in*kh*kw], exactly: QR of both factors and one small SVD, in float64."""
    if up.shape[1] == 0:
        return Decomposed(u=single(up), s=single(up[0]), vh=single(down), shape=shape, total=0.0, floor=floor)
    u, s, vh = spectrum(up, down)
    return Decomposed(u=u, s=s, vh=vh, shape=shape, total=float((doubles(s) ** 2).sum()), floor=floor)
