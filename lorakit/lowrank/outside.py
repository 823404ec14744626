"""How large a delta can be at most outside of a subspace, by random probes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import numpy as np

from lorakit.lowrank.krylov import Space

PROBES = 16
_WRONG = 1e-10  # how often the bound may be wrong
_GUESSES = np.concatenate([[0.0], np.geomspace(0.02, 0.6, 8)])
_SAFE = 1.01  # for the rounding of products in float32


def outside(space: Space, probes: np.ndarray, probed: np.ndarray, unit: float, most: int) -> Iterator[float]:
    """Upper bounds of |D|, D = P A P on the complement of the space, one after 2, 3, ... `most` products with A.

    probes, probed  [p, PROBES] normal numbers that the space does not depend on, and A probes
    unit            about the size that the bound will be compared with

    Of normal probes G [p, m] the top eigenvector v of D sees v' G, whose squared length is chi-square with m degrees;
    but for once in 10^10 it is at least c². Then |f(D) G| >= c |f(|D|)| for all functions f at once, and the polynomials
    f(z) = z^(d-1) (z - g), which are small where most of D's eigenvalues are, bound |D| by solving
    f(z) = |f(D) G| / c (after Kuczynski and Wozniakowski, 1992, who bound by one Lanczos polynomial).
    """
    # P A P G without another product: what A makes of the basis is known.
    now = space.cleaned(probed - space.image @ (space.basis.T @ probes)) / np.float32(unit)
    for degree in range(2, most + 1):
        before, now = now, space.cleaned(space.x.image(now)[1]) / np.float32(unit)
        yield _SAFE * unit * _solved(before.astype("f8"), now.astype("f8"), degree)


def _solved(before: np.ndarray, now: np.ndarray, degree: int) -> float:
    """The least bound over all guesses g, in the unit; before and now are D^(d-1) G and D^d G."""
    mixed = before.T @ now
    squares = now.T @ now - _GUESSES[:, None, None] * (mixed + mixed.T)
    squares += (_GUESSES**2)[:, None, None] * (before.T @ before)
    size = np.sqrt(np.maximum(np.linalg.eigvalsh(squares)[:, -1], 0)) / least_length(PROBES)
    # Newton from above: f is convex beyond its zero g, so that every step stays above the root.
    z = _GUESSES + size ** (1 / degree)
    for _ in range(12):
        power = z ** (degree - 2)
        value = power * z * (z - _GUESSES) - size
        z = np.where(value > 0, z - value / np.maximum(power * (degree * z - (degree - 1) * _GUESSES), 1e-300), z)
    return float(z.min())


@cache
def least_length(probes: int) -> float:
    """What the length of `probes` normal numbers, an even count, falls short of once in 10^10."""
    low, high = 0.0, float(probes)
    for _ in range(100):
        half = (low + high) / 4  # chi-square's distribution at twice this
        terms = (half**i / math.factorial(i) for i in range(probes // 2, probes // 2 + 40))
        if math.exp(-half) * sum(terms) < _WRONG:
            low = 2 * half
        else:
            high = 2 * half
    return math.sqrt(low)
