"""Spherical interpolation of two deltas (Shoemake, 1985)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lorakit.deltas.low_rank import LowRank
from lorakit.merging.kernel.terms import Factors, stacked, terms

_PARALLEL = 1e-4  # radians; nearer than this the arc is its chord


def merge(deltas: Sequence[LowRank | None], weights: Sequence[float]) -> Factors:
    """From the first delta, at weights (1, 0), to the second, at (0, 1), along the arc between their directions.

    The norm goes evenly from one to the other, where the linear mean of two unrelated deltas loses a third of it. It
    is a sum of both, so exactly low rank; norms and angle come from the factors. Weights that do not sum to 1 scale the
    result by their sum; where one delta is 0 the other is scaled by its weight. Between opposite deltas no arc is the
    nearest, and the way is straight.
    """
    if len(deltas) != 2:
        raise ValueError(f"it goes between two adapters, got {len(deltas)}")
    if min(weights) < 0:
        raise ValueError(f"weights must not be negative, got {' and '.join(f'{w:g}' for w in weights)}")
    found = terms(deltas, weights)
    if len(found) < 2:
        return stacked(found, deltas)
    (_, up_a, down_a, a), (_, up_b, down_b, b) = found
    a, b = a / weights[0], b / weights[1]  # the deltas' own scales
    first = abs(a) * max(0.0, _inner(up_a, down_a, up_a, down_a)) ** 0.5
    second = abs(b) * max(0.0, _inner(up_b, down_b, up_b, down_b)) ** 0.5
    if not first or not second:
        return stacked(found, deltas)
    cosine = a * b * _inner(up_a, down_a, up_b, down_b) / (first * second)
    angle, whole = math.acos(max(-1.0, min(1.0, cosine))), sum(weights)
    t = weights[1] / whole
    norm = whole * ((1 - t) * first + t * second)
    if angle < _PARALLEL:
        shares = 1 - t, t
    elif angle > math.pi - _PARALLEL:
        return stacked(found, deltas)
    else:
        shares = math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
    return stacked(
        [(0, up_a, down_a, norm * shares[0] * a / first), (1, up_b, down_b, norm * shares[1] * b / second)], deltas
    )


def _inner(up_a: np.ndarray, down_a: np.ndarray, up_b: np.ndarray, down_b: np.ndarray) -> float:
    """The Frobenius inner product of two products."""
    up_a, down_a, up_b, down_b = (x.astype("f8", copy=False) for x in (up_a, down_a, up_b, down_b))
    return float(((up_a.T @ up_b) * (down_a @ down_b.T)).sum())
