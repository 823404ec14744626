"""A block Krylov space of a dense delta: the basis in which its leading triplets are found soonest."""

from __future__ import annotations

from typing import Any

import numpy as np

from lorakit.lowrank.dense import DenseDelta

_ILL = 1e-4  # least squared pivot, relative, that Cholesky's factor of a Gram matrix in float32 may have
_LOST = 1e-9  # squared size, relative, below which a direction is the rounding of the others
_ROUND = 4e-6  # how far from orthonormal float32 leaves a basis


class Space:
    """The span of y, A y, A² y ... for y = x @ random, with what A = x x' makes of it.

    basis  [p, b] orthonormal
    rows   basis' x, in as many pieces as the space has grown by
    image  A basis [p, b]

    A product with A serves all powers so far, where subspace iteration keeps the last alone: half the work for the same
    accuracy (Musco and Musco, 2015).
    """

    def __init__(self, x: DenseDelta, width: int, draw: np.random.Generator) -> None:
        self.x, self._draw = x, draw
        self.basis = self.image = np.zeros((x.p, 0), np.float32)
        self.rows: list[Any] = []
        self.probed: np.ndarray | None = None
        self._next = x.through(draw.standard_normal((x.q, width), np.float32))

    @property
    def size(self) -> int:
        return self.basis.shape[1]

    def grow(self, width: int, probes: np.ndarray | None = None) -> bool:
        """One block more; False where nothing is left to grow by.

        A block that has fewer directions is filled up at random. `probes` [p, m] go along: A probes is kept.
        """
        block = self._next
        if block.shape[1] < width:
            more = self._draw.standard_normal((self.x.q, width - block.shape[1]), np.float32)
            block = np.concatenate([block, self.x.through(more)], 1)
        block = orthonormal(block, self.basis)
        if not block.shape[1]:
            return False
        new = block.shape[1]
        if probes is not None:
            rows, image = self.x.image(np.concatenate([block, probes], 1))
            rows, image, self.probed = rows[:new], image[:, :new], image[:, new:]
        else:
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
    before = np.einsum("ij,ij->j", y, y, dtype="f8")
    for _ in range(3):
        y = y - beside @ (beside.T @ y)
        gram = (y.T @ y).astype("f8")
        # A column that is nothing but rounding now must not be blown up to length 1.
        there = (gram.diagonal() > _LOST * before) & (before > 0)
        if not there.all():
            y, gram = y[:, there], gram[np.ix_(there, there)]
        if not y.shape[1] or np.abs(gram - np.eye(len(gram))).max() < _ROUND:
            break
        y = y @ _parting(gram)
        before = np.ones(y.shape[1])
    return y


def _parting(gram: np.ndarray) -> np.ndarray:
    """[b, at most b] by which columns of this Gram matrix become orthonormal, in float32."""
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
        kept = values > _ILL / 10 * values[-1]
        turn = vectors[:, kept] / np.sqrt(values[kept])
    return (scale[:, None] * turn).astype(np.float32)
