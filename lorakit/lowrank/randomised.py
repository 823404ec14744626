"""The leading triplets of a large dense delta by randomised subspace iteration, repeated until they are proven good."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from lorakit.lowrank.certified import Certified, Wanted, bounds, finished, lying, nothing, squared

SHARE = 0.9995  # of what the best triplets hold: what is proven before the iteration ends
_STEPS = 8  # multiplications by the delta and its transpose, at most
_MORE = 32  # vectors beyond those asked for
_FIRST = 32  # triplets looked for where a share or a floor decides
_PROBES = 16
_COMPONENT = 0.3  # of 16 normal numbers one is at least this, but for once in 10^10
_WIDEST = 0.25  # of the smaller side: beyond that many vectors a complete decomposition is less work
_BLIND = 3  # first steps, which no proof could follow
_FLAT = (
    1.25  # squares of the last value wanted and of the last in the sketch: nearer to each other they part too slowly
)


def leading(delta: Tensor, shape: tuple[int, ...], wanted: Wanted, seed: int = 0) -> Certified | None:
    """The leading triplets of delta [out, in*kh*kw], float32; None where `by_gram` should be asked instead.

    Halko, Martinsson and Tropp, 2011, algorithm 4.4. The sketch grows until it holds what is wanted. That at least
    `SHARE` of what the best triplets hold is in those found is proven by the residual and by the norm of the delta
    outside of the sketch; that norm is bounded by random probes, wrong once in 10^10. Same seed, same result.
    """
    x = lying(delta)
    total = squared(x)
    if not total:
        return nothing(delta, shape, wanted)
    p = x.shape[0]
    draw = torch.Generator().manual_seed(seed)
    size = _size(min(wanted.most, p) if wanted.share >= 1 and not wanted.floor else min(wanted.most, _FIRST))
    basis = x.new_zeros((p, 0))
    for step in range(_STEPS):
        if size > _WIDEST * p:
            return None
        if basis.shape[1] < size:
            fresh = torch.randn(p, size - basis.shape[1], generator=draw).to(x)
            basis = torch.linalg.qr(torch.cat([basis, fresh], 1))[0]
            basis = _stepped(x, basis, _BLIND)
        sketch = _Sketch(x, basis)
        found = wanted.count(sketch.theta.sqrt(), total)
        if found is None or found + _MORE // 2 > size:  # however often it were improved, it would hold too little
            size, basis = 2 * size, sketch.onward()
            continue
        if step and float(sketch.theta[found - 1]) < _FLAT * float(sketch.theta[-1]):
            return None
        best = sketch.proof(found, total, draw)
        basis = sketch.onward()
        if best is not None:
            return finished(x, basis, delta, shape, wanted, total, best)
    return None


def _stepped(x: Tensor, basis: Tensor, count: int) -> Tensor:
    """Steps of the iteration, in bfloat16 where the processor has it: their error is the next steps' to take away."""
    rough = x.bfloat16() if x.is_cuda or _half() else x
    for _ in range(count):
        vectors = basis.to(rough)
        basis = torch.linalg.qr((rough @ (vectors.T @ rough).T).float())[0]
    return basis


@cache
def _half() -> bool:
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def _size(k: int) -> int:
    return k + max(_MORE, k // 2)


class _Sketch:
    """A = x x' on an orthonormal basis [p, b]: Ritz values [b] falling, Ritz vectors, and what A takes out of it."""

    def __init__(self, x: Tensor, basis: Tensor) -> None:
        self.x, self.basis = x, basis
        small = basis.T @ x
        self.image = x @ small.T
        wide = self.image.double()
        inside = basis.double().T @ wide
        theta, self.turn = (part.flip(-1) for part in torch.linalg.eigh((inside + inside.T) / 2))
        self.theta = theta.clamp_min(0)
        rest = (wide - basis.double() @ inside) @ self.turn
        self.residual = rest.T @ rest

    def onward(self) -> Tensor:
        """The basis of the next step of the iteration."""
        return torch.linalg.qr(self.image)[0]

    def proof(self, k: int, total: float, draw: torch.Generator) -> Tensor | None:
        """Upper bounds of what the best 1 to k triplets hold; None where they do not prove `SHARE`, or will not."""
        held = float(self.theta[:k].sum())
        allowed = (1 / SHARE - 1) * held
        lost = max(0.0, total - float(self.theta.sum()))
        if lost <= allowed:
            return self.theta[:k].cumsum(0) + lost
        least, last = float(self.theta[k - 1]), float(self.theta[-1])
        gaps = self.theta[:k] - max(last, 0.5 * least)
        if least <= last or float((self.residual.diagonal()[:k] / gaps).sum()) > 0.8 * allowed:
            return None  # the probes cost as much as a step, and would be in vain
        outside = self._outside(max(1.05 * last, 0.35 * least), least, draw)
        best = bounds(self.theta, self.residual, outside, k)
        return best if float(best[-1]) - held <= allowed else None

    def _outside(self, guess: float, least: float, draw: torch.Generator) -> float:
        """At least the norm of A on the complement of the basis.

        Chebyshev's polynomial of A over [0, guess], applied to random vectors, is at most 1 where the guess is right,
        and grows like a cosh with each eigenvalue beyond it; so that what comes out tells how far beyond there can be
        one (Kuczynski and Wozniakowski, 1992).
        """
        p = self.x.shape[0]
        largest = math.sqrt(p) / _COMPONENT
        near = 0.5 * (1 + max(1.05, least / guess))  # of the guess: what the bound should come to
        steps = min(10, max(3, math.ceil(math.acosh(largest) / math.acosh(2 * near - 1))))
        before = self._cleaned(torch.randn(p, _PROBES, generator=draw).to(self.x))
        now = self._mapped(before, guess)
        for _ in range(steps - 1):
            before, now = now, 2 * self._mapped(now, guess) - before
        size = 1.01 * float(torch.linalg.vector_norm(now, dim=0).max()) / _COMPONENT
        return guess * (1 + math.cosh(math.acosh(max(1.0, size)) / steps)) / 2

    def _cleaned(self, vectors: Tensor) -> Tensor:
        return vectors - self.basis @ (self.basis.T @ vectors)

    def _mapped(self, vectors: Tensor, guess: float) -> Tensor:
        """2 A / guess - 1 on the complement."""
        return self._cleaned(self.x @ (vectors.T @ self.x).T) * (2 / guess) - vectors
