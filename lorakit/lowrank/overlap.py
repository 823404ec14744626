"""How alike two low-rank deltas are, from their factors alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lorakit.lowrank.decomposed import Decomposed, of_factors
from lorakit.lowrank.ranks import numerical_rank


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """Two deltas of one weight.

    product    their Frobenius inner product <a, b>
    norms      ||a|| and ||b||
    outputs    mean squared cosine of the principal angles between their column spaces, 0 to 1: 1 where the smaller space
               lies in the larger, so that both write to the same directions
    inputs     the same of their row spaces, what they read
    by_chance  (outputs, inputs) that random spaces of these ranks come to: the larger rank over the side
    """

    product: float
    norms: tuple[float, float]
    outputs: float
    inputs: float
    by_chance: tuple[float, float]

    @property
    def cosine(self) -> float:
        """<a, b> / (||a|| ||b||), -1 to 1; 0 where one of them is 0."""
        return cosine([self])


def likeness(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> Likeness:
    """Of (up [out, r], down [r, in]) each; no [out, in] matrix is made.

    Bjorck and Golub, 1973, for the angles: they are those between orthonormal bases, by the singular values of the
    bases' product, whose squares sum to a Frobenius norm.
    """
    first, second = (_bases(*factors) for factors in (a, b))
    product = float(((first.u.T @ second.u) * np.outer(first.s, second.s) * (first.vh @ second.vh.T)).sum(dtype="f8"))
    most = max(len(first.s), len(second.s))
    chance = (min(1.0, most / first.u.shape[0]), min(1.0, most / first.vh.shape[1]))
    return Likeness(
        product=product,
        norms=(first.total**0.5, second.total**0.5),
        outputs=_shared(first.u.T @ second.u),
        inputs=_shared(first.vh @ second.vh.T),
        by_chance=chance,
    )


def cosine(modules: list[Likeness]) -> float:
    """Of the modules together, as if each adapter were one long vector."""
    squares = [sum(one.norms[i] ** 2 for one in modules) for i in (0, 1)]
    if not all(squares):
        return 0.0
    return float(np.clip(sum(one.product for one in modules) / (squares[0] * squares[1]) ** 0.5, -1, 1))


def mean(modules: list[Likeness], what: str) -> float:
    """`outputs` or `inputs` of the modules together, each counted by the product of its norms."""
    weights = [one.norms[0] * one.norms[1] for one in modules]
    if not any(weights):
        return 0.0
    return sum(weight * getattr(one, what) for weight, one in zip(weights, modules, strict=True)) / sum(weights)


def _bases(up: np.ndarray, down: np.ndarray) -> Decomposed:
    """Triplets without those that are zero but for rounding."""
    found = of_factors(up, down, (up.shape[0], down.shape[1]))
    rank = numerical_rank(found.s, sides=max(up.shape[0], down.shape[1]), single=True)
    return Decomposed(u=found.u[:, :rank], s=found.s[:rank], vh=found.vh[:rank], shape=found.shape, total=found.total)


def _shared(product: np.ndarray) -> float:
    """Mean squared cosine of as many principal angles as the smaller space has dimensions."""
    return min(1.0, float((product.astype("f8") ** 2).sum()) / min(product.shape)) if min(product.shape) else 0.0
