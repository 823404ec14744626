"""Each delta cleaned of the subspaces of those before it (after the orthogonal subspaces of Po et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorakit.deltas.low_rank import LowRank
from lorakit.lowrank.compress import spectrum
from lorakit.merging.kernel.terms import Factors, stacked, terms

_ZERO = 1e-6  # of the largest singular value


def merge(deltas: Sequence[LowRank | None], weights: Sequence[float]) -> Factors:
    """w1 Δ1 + w2 (1 - P1) Δ2 (1 - Q1) + ..., with P on the columns and Q on the rows of all deltas before.

    What the later adapters would do to inputs that an earlier one reads, or write where it writes, is taken out of
    them: the first is kept exactly, and the order matters. Exactly low rank. An adapter at weight 0 cleans nothing.
    """
    columns: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    cleaned = []
    for i, up, down, weight in terms(deltas, weights):
        u, s, vh = spectrum(up, down)
        real = s > _ZERO * s[:1]
        cleaned.append((i, _without(up, columns), _without(down.T, rows).T, weight))
        columns.append(u[:, real])
        rows.append(vh[real].T)
    return stacked(cleaned, deltas)


def _without(x: np.ndarray, bases: list[np.ndarray]) -> np.ndarray:
    """x [n, r] less what lies in the span of all bases [n, k]."""
    if not bases or not sum(basis.shape[1] for basis in bases):
        return x
    q, s, _ = np.linalg.svd(np.concatenate(bases, 1).astype("f8"), full_matrices=False)
    q = q[:, s > _ZERO * s[0]]
    rest = x.astype("f8")
    for _ in range(2):  # once more for what rounding left
        rest = rest - q @ (q.T @ rest)
    return rest.astype(x.dtype)
