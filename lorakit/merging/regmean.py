"""RegMean (Jin et al., 2023) without data: the delta that does to each adapter's inputs what that adapter does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorakit.deltas.low_rank import LowRank
from lorakit.merging.kernel.terms import Factors, stacked, terms

_ZERO = 1e-10  # of the largest eigenvalue of the second moments


def merge(deltas: Sequence[LowRank | None], weights: Sequence[float]) -> Factors:
    """The minimiser of Σ |w| ||(D - w Δ) C^½||², which is (Σ |w| w Δ C) (Σ |w| C)⁺; exactly low rank.

    C is the second moment of the inputs that an adapter was trained on, and a file does not hold it. Here it is
    guessed as Δᵀ Δ / ||Δ||²: gradient descent writes a delta out of its inputs, so that its rows lie in their span
    and are largest along the commonest. (downᵀ down would depend on how the delta is split into factors.) It is a
    guess: directions that one adapter alone reads come out as they are, and those that several read become a mean of
    what they do there, by how strongly each reads them.
    """
    found = terms(deltas, weights)
    if len(found) < 2:
        return stacked(found, deltas)
    downs = np.concatenate([down for _, _, down, _ in found], 0)
    q, values, _ = np.linalg.svd(downs.T.astype("f8"), full_matrices=False)
    q = q[:, values > 1e-9 * values[0]]  # the rows of all deltas, [in, k]
    targets, moments = [], []
    for i, up, down, scaled in found:
        weight = abs(weights[i])
        inner = down.astype("f8") @ q * scaled  # w Δ = up @ inner @ qᵀ
        moment = inner.T @ (up.T.astype("f8") @ up.astype("f8")) @ inner
        moment = moment * (weight / max(float(moment.trace()), 1e-300))
        targets.append(inner @ moment)
        moments.append(moment)
    eigenvalues, vectors = np.linalg.eigh(np.sum(moments, 0))
    kept = eigenvalues > _ZERO * eigenvalues[-1]
    inverse = (vectors[:, kept] / eigenvalues[kept]) @ vectors[:, kept].T
    ups = np.concatenate([up for _, up, _, _ in found], 1)
    return ups, (np.concatenate(targets, 0) @ inverse @ q.T).astype(downs.dtype)
