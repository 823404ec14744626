"""The exact triplets of a dense delta, by the Gram matrix of its smaller side and a Rayleigh-Ritz step."""

from __future__ import annotations

import numpy as np

from lorakit.lowrank.certified import Certified, SpectrumRequest, bounds, finished, nothing
from lorakit.lowrank.dense import DenseDelta

_MORE = 16  # vectors beyond those asked for
_SUMMED = 512  # columns whose products may have been summed in float32
_UNIT = 2.0**-24
_FAINT = 1e-5  # of the largest eigenvalue


def by_gram(x: DenseDelta, shape: tuple[int, ...], wanted: SpectrumRequest) -> Certified:
    """The leading triplets of a delta.

    The Gram matrix loses half of the digits; the vectors that it gives are good enough for the Rayleigh-Ritz step on the
    delta itself to make up for it, as its error is the square of theirs. What the step may still miss is bounded by its
    residual and the next eigenvalue, which is known up to the rounding of the sums (Higham, 2002, section 3.1).
    """
    total = x.squared
    if not total:
        return nothing(x, shape, wanted)
    p = x.p
    values, vectors = (part[..., ::-1] for part in np.linalg.eigh(x.gram()))
    k = wanted.count(np.sqrt(np.maximum(values, 0)), total) or min(p, wanted.most)
    more = min(p, k + _MORE)
    basis = np.ascontiguousarray(vectors[:, :more], np.float32)
    if more < p and float(values[k - 1]) < _FAINT * float(values[0]):  # in the rounding of the sums, not of the delta
        basis = np.linalg.qr(x.through(np.linalg.qr(x.combined(np.eye(more), [x.rows(basis)]).T)[0]))[0]
    rows, image = x.image(basis)
    theta, turn = (part[..., ::-1] for part in np.linalg.eigh(x.inner(rows)))
    k = wanted.count(np.sqrt(np.maximum(theta, 0)), total) or min(wanted.most, len(theta))
    best = None
    if more < p:
        rounding = _SUMMED * _UNIT / (1 - _SUMMED * _UNIT) * total
        k = min(k, more - 1)
        known = values[:k].cumsum() + np.sqrt(np.arange(1, k + 1)) * rounding  # Hoffman and Wielandt, 1953
        wide = basis.astype("f8")
        rest = (image - wide @ (wide.T @ image)) @ turn
        best = np.minimum(known, bounds(theta, rest.T @ rest, float(values[more]) + rounding, k))
    taken = np.ascontiguousarray(turn[:, :k], np.float32)
    inside = float(np.maximum(theta, 0).sum())
    return finished(x, basis @ taken, x.combined(taken, [rows]), inside=inside, shape=shape, wanted=wanted, best=best)
