"""ZipLoRA's column coefficients (Shah et al., 2023), by a closed form in place of training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorakit.deltas.low_rank import LowRank
from lorakit.merging.kernel.terms import Factors, stacked, terms


def merge(deltas: Sequence[LowRank | None], weights: Sequence[float], *, conflict: float = 0.99) -> Factors:
    """Σ w Δ diag(m), with a coefficient m for each adapter and input column; exactly low rank.

    conflict    how much overlap costs, 0 (the plain sum) to below 1

    The coefficients of a column minimise Σ_k (1 - m_k)² + conflict Σ_{i≠k} m_i m_k cos²_ik, where cos_ik is the cosine
    between the columns of two deltas: columns that point in different directions stay as they are, columns of two
    adapters that do the same are halved. The paper finds m by the denoising loss and punishes |m_i m_k|; this has the
    same two aims, to keep each adapter and to keep columns from adding up, and needs no model and no pictures.
    """
    if not 0 <= conflict < 1:
        raise ValueError(f"conflict must be from 0 to below 1, got {conflict:g}")
    found = terms(deltas, weights)
    if len(found) < 2:
        return stacked(found, deltas)
    count, width = len(found), found[0][2].shape[1]
    gram = np.empty((width, count, count))
    for a, (_, up_a, down_a, _) in enumerate(found):
        for b, (_, up_b, down_b, _) in enumerate(found[: a + 1]):
            wide = [x.astype("f8", copy=False) for x in (up_a, down_a, up_b, down_b)]
            inner = (wide[1] * (wide[0].T @ wide[2] @ wide[3])).sum(0)
            gram[:, a, b] = gram[:, b, a] = inner
    norms = gram.diagonal(axis1=1, axis2=2)
    squared = gram**2 / np.maximum(norms[:, :, None] * norms[:, None, :], 1e-300)
    overlap = conflict * squared * (1 - np.eye(count)) + np.eye(count)
    # The squares of a matrix of cosines make one without negative eigenvalues (Schur), so this has none below
    # 1 - conflict.
    m = np.linalg.solve(overlap, np.ones((width, count, 1)))[:, :, 0]
    scaled = [(i, up, (down * m[:, k]).astype(down.dtype), weight) for k, (i, up, down, weight) in enumerate(found)]
    return stacked(scaled, deltas)
