"""The singular triplets of a sum of low-rank terms, fast where the numbers are benign and in float64 where not."""

from __future__ import annotations

import torch
from torch import Tensor

from lorakit.lowrank.compress import spectrum
from lorakit.lowrank.decomposed import Decomposed

_EPS32 = 2.0**-23
_BENIGN = 1e-6  # the relative error that float32 may add
_MORE = 16  # vectors beyond those asked for
_TINY = 1e-7  # of what the terms are made of: below this a sum's singular values are the terms' own rounding


def decompose(up: Tensor, down: Tensor, shape: tuple[int, ...], most: int | None = None) -> Decomposed:
    """The triplets of up [out, r] @ down [r, in*kh*kw], the best `most` of them or all; exact up to 1e-6 of the norm.

    Gram matrices in float64 are factorized by Cholesky, and the vectors are products of the factors in float32: a
    third of the work of orthogonal bases (Yamamoto et al., 2015). What that may cost is known beforehand, and where the
    factors depend on one another, or terms cancel, the bases are made by Householder's QR in float64.
    """
    wide_up, wide_down = up.double(), down.double()
    grams = wide_up.T @ wide_up, wide_down @ wide_down.T
    # What the r terms of rank 1 would come to if they were orthogonal.
    amount = float((grams[0].diagonal() * grams[1].diagonal()).sum()) ** 0.5
    if not amount:
        return _empty(up, down, shape)
    found = _by_gram(up, down, grams, most) if up.shape[1] <= min(up.shape[0], down.shape[1]) else None
    if found is None:
        u, s, vh = spectrum(up, down)
        found = u, s, vh, float(s.double().square().sum())
    u, s, vh, total = found
    real = int((s > _TINY * amount).sum())
    if not real:
        return _empty(up, down, shape)
    k = min(real, most or real)
    return Decomposed(u[:, :k], s[:k], vh[:k], shape, total)


def independent(up: Tensor, down: Tensor) -> bool:
    """Whether up @ down has the rank its factors have, by a margin."""
    if not 0 < up.shape[1] <= min(up.shape[0], down.shape[1]):
        return False
    return all(_cholesky(side.T @ side) is not None for side in (up.double(), down.double().T))


def norm(up: Tensor, down: Tensor) -> float:
    """||up @ down||."""
    up, down = up.double(), down.double()
    return max(0.0, float(((up.T @ up) * (down @ down.T)).sum())) ** 0.5


def _empty(up: Tensor, down: Tensor, shape: tuple[int, ...]) -> Decomposed:
    return Decomposed(up[:, :0].float(), torch.zeros(0), down[:0].float(), shape, 0.0)


def of_dense(delta: Tensor, shape: tuple[int, ...], most: int | None = None) -> Decomposed:
    """The triplets of a dense delta [out, in*kh*kw], the best `most` of them or all.

    A few of many come from the Gram matrix of the smaller side and a Rayleigh-Ritz step, which makes up for what
    squaring loses.
    """
    small = min(delta.shape)
    k = min(most or small, small)
    if 3 * (k + _MORE) >= small:
        u, s, vh = torch.linalg.svd(delta.float(), full_matrices=False)
        total = float(s.double().square().sum())
        return Decomposed(u[:, :k], s[:k], vh[:k], shape, total)
    x = delta if delta.shape[0] == small else delta.T
    vectors = torch.linalg.eigh(x @ x.T)[1][:, -(k + _MORE) :]
    q, r = torch.linalg.qr((vectors.T @ x).T)
    a, s, bh = torch.linalg.svd(r.T)
    u, vh = (vectors @ a)[:, :k], bh[:k] @ q.T
    if x is not delta:
        u, vh = vh.T, u.T
    total = max(float(delta.double().square().sum()), float(s[:k].double().square().sum()))
    return Decomposed(u.float().contiguous(), s[:k].float(), vh.float().contiguous(), shape, total)


def _cholesky(gram: Tensor) -> Tensor | None:
    """The lower factor; None where a column is, but for a ten-thousandth, a combination of those before it."""
    lower, failed = torch.linalg.cholesky_ex(gram)
    if int(failed) or bool((lower.diagonal() ** 2 <= 1e-8 * gram.diagonal()).any()):
        return None
    return lower


def _by_gram(
    up: Tensor, down: Tensor, grams: tuple[Tensor, Tensor], most: int | None
) -> tuple[Tensor, Tensor, Tensor, float] | None:
    """(u, s, vh, total) by Cholesky; None where float32 is not good enough."""
    lower_up, lower_down = _cholesky(grams[0]), _cholesky(grams[1])
    if lower_up is None or lower_down is None:
        return None
    a, s, bh = torch.linalg.svd(lower_up.T @ lower_down)
    total = float(s.square().sum())
    k = min(most or len(s), len(s))
    if not float(s[k - 1]):
        return None
    # u = up @ lower_up^-T @ a; a column's error is what cancels in it.
    left = torch.linalg.solve_triangular(lower_up.T, a[:, :k], upper=True)
    right = torch.linalg.solve_triangular(lower_down.T, bh[:k].T, upper=True)
    lost = sum(
        float(((gram.diagonal().sqrt() @ side.abs()) * s[:k]).square().sum())
        for gram, side in zip(grams, (left, right), strict=True)
    )
    if _EPS32 * (lost / total) ** 0.5 > _BENIGN * len(s) ** 0.5:
        return None
    short = s[:k].float()
    total = float(short.double().square().sum() + s[k:].square().sum())  # so that what is left is known to 1e-8
    return up @ left.to(up), short, right.T.to(down) @ down, total
