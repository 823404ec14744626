"""Leading singular triplets with a proof of how near the optimum they are, found after the fact."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorakit.lowrank.decomposed import Decomposed

_PRECISE = 1e-4  # of the squared norm: remainders below this are worked out by themselves, as differences cancel
_SIZES = 64


@dataclass(frozen=True)
class Wanted:
    """How many triplets are asked for.

    most    not more than this
    share   as many as hold this share of the squared Frobenius norm
    floor   as many as have singular values above this
    """

    most: int
    share: float = 1.0
    floor: float = 0.0

    def count(self, s: Tensor, total: float) -> int | None:
        """How many of the leading values s [k], falling, that is; None where k are too few to tell."""
        squares = s.double().square().cumsum(0)
        if self.floor and len(s) and float(s[-1]) <= self.floor:
            return max(1, min(self.most, int((s > self.floor).sum())))
        enough = squares >= self.share * total * (1 - 1e-12)
        if self.share < 1 and len(s) and bool(enough[-1]):
            return min(self.most, 1 + int((~enough).sum()))
        return self.most if self.most <= len(s) else None


@dataclass(frozen=True)
class Certified(Decomposed):
    """Triplets, and at each rank 1 to k an upper bound of the squared norm that any matrix of that rank can hold."""

    best: tuple[float, ...] = ()

    def of_optimum(self, rank: int) -> float:
        """At least this share of what the optimum of this rank holds, 0 to 1."""
        if self.total <= 0 or not rank:
            return 1.0
        return min(1.0, float(self.s[:rank].double().square().sum()) / self.best[min(rank, len(self.best)) - 1])

    def excess(self, rank: int) -> float:
        """At most by this is the error at this rank, relative to the norm, above the optimum's."""
        if self.total <= 0 or not rank:
            return 0.0
        least = max(0.0, 1 - self.best[min(rank, len(self.best)) - 1] / self.total) ** 0.5
        return max(0.0, self.error(rank) - least)


def squared(x: Tensor) -> float:
    """The squared Frobenius norm, of short sums in float32 added in float64."""
    x = x if x.is_contiguous() else x.T
    rows = x.reshape(-1, 64) if x.is_contiguous() and x.shape[-1] % 64 == 0 else x
    return float(torch.linalg.vecdot(rows, rows).double().sum())


def lying(delta: Tensor) -> Tensor:
    """The matrix with its smaller side as rows."""
    return delta if delta.shape[0] <= delta.shape[1] else delta.T


def bounds(theta: Tensor, residual: Tensor, outside: float, k: int) -> Tensor:
    """Upper bounds [k] of the sums of the 1, 2, ... k largest eigenvalues of a symmetric A that is not negative.

    theta     [b] falling, the eigenvalues of A on an orthonormal basis Q, float64
    residual  [b, b] C C', C being what A takes from each Ritz vector out of Q, float64
    outside   at least the norm of A on the complement of Q

    [[T, C], [C', D]] <= diag(T + C C' / t, D + t) for any t > 0, as the difference is a square; so of the eigenvalues
    of A the i-th is at most the larger of that of T + C C' / t and of |D| + t. The error is quadratic in C.
    """
    top = float(theta[0])
    if top <= 0:
        return theta[:k].clamp_min(0).cumsum(0)
    sizes = torch.logspace(-9, 0.5, _SIZES, dtype=torch.float64, device=theta.device) * top
    rough = torch.maximum(theta + residual.diagonal() / sizes[:, None], outside + sizes[:, None])[:, :k].sum(1)
    t = float(sizes[int(rough.argmin())])
    values = torch.linalg.eigvalsh(torch.diag(theta) + residual / t).flip(0)[:k]
    return values.clamp_min(outside + t).cumsum(0)


def finished(
    x: Tensor, basis: Tensor, delta: Tensor, shape: tuple[int, ...], wanted: Wanted, total: float, best: Tensor | None
) -> Certified:
    """The triplets of x [p, q] on the span of an orthonormal basis [p, b], as many as wanted.

    x      `lying(delta)`
    best   upper bounds as `bounds` gives them, at least as many as are taken; None where the basis spans everything
    """
    small = basis.T @ x
    wide = small.double()
    theta, vectors = (part.flip(-1) for part in torch.linalg.eigh(wide @ wide.T))
    s = theta.clamp_min(0).sqrt()
    k = wanted.count(s, total) or min(wanted.most, len(s))
    if best is not None:
        k = min(k, len(best))
    taken, s = vectors[:, :k].float(), s[:k].float()
    left, right = basis @ taken, taken.T @ small
    right /= s.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    squares = s.double().square().cumsum(0)
    held = float(squares[-1])
    if total - held < _PRECISE * total:
        total = held + squared(x - (left * s) @ right)
    limit = torch.full_like(squares, total)
    if best is None:
        limit = torch.minimum(limit, squares)
    else:
        # What is left of x beyond the basis may all belong to the leading triplets, at worst.
        limit = torch.minimum(limit, squares + max(0.0, total - float(theta.clamp_min(0).sum())))
        limit = torch.minimum(limit, best[:k].to(limit.device))
    limit = torch.maximum(limit, squares)
    u, vh = (left, right) if delta.shape[0] <= delta.shape[1] else (right.T, left.T)
    found = Certified(
        u.contiguous(), s, vh.contiguous(), shape, total, wanted.floor, best=tuple(float(b) for b in limit)
    )
    worst = max((found.excess(rank) for rank in range(1, k + 1)), default=0.0)
    return Certified(found.u, s, found.vh, shape, total, wanted.floor, worst, found.best)


def nothing(delta: Tensor, shape: tuple[int, ...], wanted: Wanted) -> Certified:
    """Of a delta that is 0."""
    empty = delta.new_zeros(0, dtype=torch.float32)
    out, columns = delta.shape
    return Certified(empty.reshape(out, 0), empty, empty.reshape(0, columns), shape, 0.0, wanted.floor)
