"""Leading singular triplets with a proof of how near the optimum they are, found after the fact."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lorakit.lowrank.decomposed import Decomposed
from lorakit.lowrank.dense import DenseDelta

_PRECISE = 1e-4  # of the squared norm: remainders below this are worked out by themselves, as differences cancel
_SIZES = 32
_ROUNDING = 1e-6  # of the squared norm: what products in float32 may take from a bound


@dataclass(frozen=True)
class SpectrumRequest:
    """How many triplets are asked for.

    most    not more than this
    share   as many as hold this share of the squared Frobenius norm
    floor   as many as have singular values above this
    """

    most: int
    share: float = 1.0
    floor: float = 0.0

    @property
    def open(self) -> bool:
        """Whether the values themselves decide."""
        return self.share < 1 or bool(self.floor)

    def count(self, s: np.ndarray, total: float) -> int | None:
        """How many of the leading values s [k], falling, that is; None where k are too few to tell."""
        squares = np.cumsum(s.astype("f8") ** 2)
        if self.floor and len(s) and float(s[-1]) <= self.floor:
            return max(1, min(self.most, int((s > self.floor).sum())))
        enough = squares >= self.share * total * (1 - 1e-12)
        if self.share < 1 and len(s) and bool(enough[-1]):
            return min(self.most, 1 + int((~enough).sum()))
        return self.most if self.most <= len(s) else None


@dataclass(frozen=True, kw_only=True)
class Certified(Decomposed):
    """Triplets in numpy, and at each rank 1 to k an upper bound of the squared norm that any matrix of that rank holds."""

    best: tuple[float, ...] = ()

    def of_optimum(self, rank: int) -> float:
        """At least this share of what the optimum of this rank holds, 0 to 1."""
        if self.total <= 0 or not rank:
            return 1.0
        return min(1.0, float((self.s[:rank].astype("f8") ** 2).sum()) / self.best[min(rank, len(self.best)) - 1])

    def excess(self, rank: int) -> float:
        """At most by this is the error at this rank, relative to the norm, above the optimum's."""
        if self.total <= 0 or not rank:
            return 0.0
        least = max(0.0, 1 - self.best[min(rank, len(self.best)) - 1] / self.total) ** 0.5
        return max(0.0, self.error(rank) - least)


def bounds(theta: np.ndarray, residual: np.ndarray, outside: float, k: int) -> np.ndarray:
    """Upper bounds [k] of the sums of the 1, 2, ... k largest eigenvalues of a symmetric A that is not negative.

    theta     [b] falling, the eigenvalues of A on an orthonormal basis Q, float64
    residual  [b, b] C C', C being what A takes from each Ritz vector out of Q, float64
    outside   at least the norm of A on the complement of Q

    [[T, C], [C', D]] <= diag(T + C C' / t, D + t) for any t > 0, as the difference is a square; so of the eigenvalues
    of A the i-th is at most the larger of that of T + C C' / t and of |D| + t. The error is quadratic in C.
    """
    top = float(theta[0])
    if top <= 0:
        return np.maximum(theta[:k], 0).cumsum()
    sizes = np.logspace(-9, 0.5, _SIZES) * top
    rough = np.maximum(theta + residual.diagonal() / sizes[:, None], outside + sizes[:, None])[:, :k].sum(1)
    t = float(sizes[int(rough.argmin())])
    values = np.linalg.eigvalsh(np.diag(theta) + residual / t)[::-1][:k]
    return np.maximum(values, outside + t).cumsum()


def finished(
    x: DenseDelta,
    left: np.ndarray,
    right: np.ndarray,
    *,
    inside: float,
    shape: tuple[int, ...],
    wanted: SpectrumRequest,
    best: np.ndarray | None,
) -> Certified:
    """The triplets whose left vectors [p, k] and rows right = left' x [k, q] were found, as many as are wanted.

    inside  the squared norm of x in all of the basis that `left` was found in
    best    upper bounds as `bounds` gives them, at least k; None where the basis spans everything
    """
    squares = np.einsum("ij,ij->i", right, right, dtype="f8")
    order = np.argsort(-squares, kind="stable")
    left, right, squares = left[:, order], right[order], squares[order]
    s = np.sqrt(squares).astype(np.float32)
    sums = np.cumsum(s.astype("f8") ** 2)  # of what is written down
    total, held = x.squared, float(sums[-1])
    if total - held < _PRECISE * total:
        total = held + x.remainder(left, right)
    right = right / np.maximum(s, np.finfo(np.float32).tiny)[:, None]
    if best is None:
        limit = sums
    else:
        # What is left of x beyond the basis may all belong to the leading triplets, at worst.
        limit = np.minimum(total, sums + max(0.0, total - inside))
        limit = np.maximum(np.minimum(limit, best[: len(sums)] + _ROUNDING * total), sums)
    u, vh = x.upright(left, right)
    found = Certified(u=u, s=s, vh=vh, shape=shape, total=total, floor=wanted.floor, best=tuple(limit.tolist()))
    errors = np.sqrt(np.maximum(0, 1 - np.minimum(sums / total, 1))) - np.sqrt(np.maximum(0, 1 - limit / total))
    return replace(found, slack=max(0.0, float(errors.max(initial=0.0))))


def nothing(x: DenseDelta, shape: tuple[int, ...], wanted: SpectrumRequest) -> Certified:
    """Of a delta that is 0."""
    u, vh = x.upright(np.zeros((x.p, 0), np.float32), np.zeros((0, x.q), np.float32))
    return Certified(u=u, s=np.zeros(0, np.float32), vh=vh, shape=shape, total=0.0, floor=wanted.floor)
