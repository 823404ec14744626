"""The singular triplets of a sum of low-rank terms in numpy, fast where the numbers are benign, in float64 where not."""

from __future__ import annotations

from typing import Any

import numpy as np

from lorakit.lowrank.compress import spectrum
from lorakit.lowrank.decomposed import Decomposed

_EPS32 = 2.0**-23
_BENIGN = 1e-6  # the relative error that float32 may add
_MORE = 16  # vectors beyond those asked for
_TINY = 1e-7  # of what the terms are made of: below this a sum's singular values are the terms' own rounding
_SQUARED = 1e-3  # of the largest singular value; those above come out of squares with 10 digits
_WIDE = 256  # a side from which squares and a few vectors are less work than a whole decomposition

_HUGE = 1e30  # float32 ends at 3e38

Found = tuple[np.ndarray, np.ndarray, np.ndarray, float]


def decompose(up: np.ndarray, down: np.ndarray, shape: tuple[int, ...], most: int | None = None) -> Decomposed:
    """The triplets of up [out, r] @ down [r, in*kh*kw], the best `most` of them or all; exact up to 1e-6 of the norm.

    Gram matrices in float64 are factorized by Cholesky, and the vectors are products of the factors in float32: a
    third of the work of orthogonal bases (Yamamoto et al., 2015). What that may cost is known beforehand, and where the
    factors depend on one another, or terms cancel, the bases are made by Householder's QR in float64. Factors that are
    wider than the delta is are multiplied out, in float64 too.
    """
    wide_up, wide_down = up.astype("f8", copy=False), down.astype("f8", copy=False)
    grams = wide_up.T @ wide_up, wide_down @ wide_down.T
    # What the r terms of rank 1 would come to if they were orthogonal.
    amount = float((grams[0].diagonal() * grams[1].diagonal()).sum()) ** 0.5
    if not amount:
        return _empty(up, down, shape)
    small = min(up.shape[0], down.shape[1])
    if up.shape[1] > small >= _WIDE:
        whole = of_dense(wide_up @ wide_down, shape, most)
        found: Found | None = (whole.u, whole.s, whole.vh, whole.total)
    else:
        found = _by_gram(up, down, grams, most) if up.shape[1] <= small else None
    if found is None:
        u, s, vh = spectrum(up, down)
        found = u, s, vh, float((s.astype("f8") ** 2).sum())
    u, s, vh, total = found
    real = int((s > _TINY * amount).sum())
    if not real:
        return _empty(up, down, shape)
    k = min(real, most or real)
    return Decomposed(u=u[:, :k], s=s[:k], vh=vh[:k], shape=shape, total=total)


def independent(up: np.ndarray, down: np.ndarray) -> bool:
    """Whether up @ down has the rank its factors have, by a margin."""
    if not 0 < up.shape[1] <= min(up.shape[0], down.shape[1]):
        return False
    return all(_cholesky(side.T @ side) is not None for side in (up.astype("f8"), down.astype("f8").T))


def _empty(up: np.ndarray, down: np.ndarray, shape: tuple[int, ...]) -> Decomposed:
    return Decomposed(u=up[:, :0].astype("f4"), s=np.zeros(0, "f4"), vh=down[:0].astype("f4"), shape=shape, total=0.0)


def of_dense(delta: np.ndarray, shape: tuple[int, ...], most: int | None = None) -> Decomposed:
    """The triplets of a dense delta [out, in*kh*kw], the best `most` of them or all, worked out in its own type.

    A few of many come from the Gram matrix of the smaller side and a Rayleigh-Ritz step, which makes up for what
    squaring loses.
    """
    small = min(delta.shape)
    k = min(most or small, small)
    if 3 * (k + _MORE) >= small:
        u, s, vh = np.linalg.svd(delta, full_matrices=False)
        return _single(u[:, :k], s[:k], vh[:k], shape, float((s.astype("f8") ** 2).sum()))
    x = delta if delta.shape[0] == small else delta.T
    vectors = np.linalg.eigh(x @ x.T)[1][:, -(k + _MORE) :]
    q, r = np.linalg.qr((vectors.T @ x).T)
    a, s, bh = np.linalg.svd(r.T)
    u, vh = (vectors @ a)[:, :k], bh[:k] @ q.T
    if x is not delta:
        u, vh = vh.T, u.T
    held = float((s[:k].astype("f8") ** 2).sum())
    whole = sum(float((delta[i : i + 256].astype("f8") ** 2).sum()) for i in range(0, len(delta), 256))
    return _single(u, s[:k], vh, shape, max(whole, held))


def _single(u: Any, s: Any, vh: Any, shape: tuple[int, ...], total: float) -> Decomposed:
    u, s, vh = (x.astype("f4", copy=False) for x in (u, s, vh))
    return Decomposed(u=u, s=s, vh=vh, shape=shape, total=total)


def _cholesky(gram: np.ndarray) -> np.ndarray | None:
    """The lower factor; None where a column is, but for a ten-thousandth, a combination of those before it."""
    try:
        lower = np.linalg.cholesky(gram)
    except np.linalg.LinAlgError:
        return None
    return None if (lower.diagonal() ** 2 <= 1e-8 * gram.diagonal()).any() else lower


def _by_gram(up: np.ndarray, down: np.ndarray, grams: tuple[np.ndarray, np.ndarray], most: int | None) -> Found | None:
    """(u, s, vh, total) by Cholesky; None where float32 is not good enough."""
    lower_up, lower_down = _cholesky(grams[0]), _cholesky(grams[1])
    if lower_up is None or lower_down is None:
        return None
    found = _core(lower_up.T @ lower_down, most)
    if found is None:
        return None
    a, s, b, k = found
    total = float((s * s).sum())
    # u = up @ lower_up^-T @ a; a column's error is what cancels in it.
    left, right = np.linalg.solve(lower_up.T, a), np.linalg.solve(lower_down.T, b)
    lost = sum(
        float((((gram.diagonal() ** 0.5 @ abs(side)) * s[:k]) ** 2).sum())
        for gram, side in zip(grams, (left, right), strict=True)
    )
    if _EPS32 * (lost / total) ** 0.5 > _BENIGN * len(s) ** 0.5:
        return None
    if max(abs(left).max(), abs(right).max()) > _HUGE:
        return None
    short = s[:k].astype("f4")
    # So that what is left is known to 1e-8.
    total = float((short.astype("f8") ** 2).sum() + (s[k:] ** 2).sum())
    return up @ left.astype(up.dtype), short, right.T.astype(down.dtype) @ down, total


def _core(core: np.ndarray, most: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, int] | None:
    """(a [r, k], all s [r] falling, b [r, k], k) of a small square matrix; None where one that is asked for is 0.

    Eigenvectors of its square, two thirds of the work, where the values asked for are not so small that squares lose
    them.
    """
    k = min(most or len(core), len(core))
    values, vectors = np.linalg.eigh(core @ core.T)
    values = values[::-1]
    if values[k - 1] > _SQUARED**2 * values[0]:
        a = vectors[:, ::-1][:, :k]
        s = np.sqrt(np.maximum(values, 0.0))
        return a, s, (core.T @ a) / s[:k], k
    a, s, bh = np.linalg.svd(core)
    return (a[:, :k], s, bh[:k].T, k) if s[k - 1] else None
