"""A block Krylov space of a dense delta: the basis in which its leading triplets are found soonest."""

from __future__ import annotations

from typing import Any

import numpy as np

from lorakit.lowrank.dense import Dense

_ILL = 1e-6  # least squared pivot, relative, that Cholesky's factor may have in float32
_LOST = 1e-9  # squared size, relative, below which a direction is the rounding of the others


class Space:
    """The span of y, A y, A² y ... for y = x @ random, with what A = x x' makes of it.

    basis  [p, b] orthonormal
    rows   basis' x, in as many pieces as the space has grown by
    image  A basis [p, b]

    A product with A serves all powers so far, where subspace iteration keeps the last alone: half the work for the same
    accuracy (Musco and Musco, 2015).
    """

    def __init__(self, x: Dense, width: int, draw: np.random.Generator) -> None:
        self.x, self._draw = x, draw
        self.basis = self.image = np.zeros((x.p, 0), np.float32)
        self.rows: list[Any] = []
        self._next = x.through(draw.standard_normal((x.q, width), np.float32))

    @property
    def size(self) -> int:
        return self.basis.shape[1]

    def grow(self, width: int) -> bool:
        """One block more; False where nothing is left to grow by. Directions that were new are joined by random ones."""
        block = self._next
        if block.shape[1] < width:
            more = self._draw.standard_normal((self.x.q, width - block.shape[1]), np.float32)
            block = np.concatenate([block, self.x.through(more)], 1)
        block = orthonormal(block, self.basis)
        if not block.shape[1]:
            return False
        rows, image = self.x.image(block)
        self.rows.append(rows)
        self.basis = np.concatenate([self.basis, block], 1)
        self.image = np.concatenate([self.image, image], 1)
        self._next = image
        return True

    def cleaned(self, vectors: np.ndarray) -> np.ndarray:
        """[p, m] without what lies in the basis."""
        return vectors - self.basis @ (self.basis.T @ vectors)


def orthonormal(y: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """An orthonormal basis of what y [p, b] has outside of `beside` [p, n], itself orthonormal; [p, at most b].

    Twice is enough (Giraud et al., 2005). By Cholesky's factor of the Gram matrix, all products; where the columns
    nearly depend on one another, by its eigenvectors, which tell how many there are (Stathopoulos and Wu, 2002).
    """
    size = np.sqrt(np.einsum("ij,ij->j", y, y, dtype="f8"))
    for _ in range(2):
        y = y - beside @ (beside.T @ y)
        y, size = _parted(y, size)
        if not y.shape[1]:
            return y
    return _parted(y - beside @ (beside.T @ y), size)[0] if size.min() < 0.5 else y


def _parted(y: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the columns made orthonormal, 1 for each); `size` [b] is what the columns were before anything was taken away."""
    gram = y.T.astype("f8") @ y
    # A column that is nothing but rounding now must not be blown up to length 1.
    there = (gram.diagonal() > _LOST * size**2) & (size > 0)
    if not there.all():
        y, gram = y[:, there], gram[np.ix_(there, there)]
    if not y.shape[1]:
        return y, np.ones(0)
    scale = 1 / np.sqrt(gram.diagonal())
    gram = gram * scale * scale[:, None]
    try:
        factor = np.linalg.cholesky(gram)
    except np.linalg.LinAlgError:
        factor = None
    if factor is not None and factor.diagonal().min() ** 2 > _ILL:
        turn = np.linalg.inv(factor).T
    else:
        values, vectors = np.linalg.eigh(gram)
        kept = values > _LOST * values[-1]
        turn = vectors[:, kept] / np.sqrt(values[kept])
    turn = (scale[:, None] * turn).astype(np.float32)
    return y @ turn, np.ones(turn.shape[1])
