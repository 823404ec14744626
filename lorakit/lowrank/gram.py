"""The exact triplets of a dense delta, by the Gram matrix of its smaller side and a Rayleigh-Ritz step."""

from __future__ import annotations

import torch
from torch import Tensor

from lorakit.lowrank.certified import Certified, Wanted, bounds, finished, lying, nothing, squared

_MORE = 16  # vectors beyond those asked for
_PIECE = 512  # columns whose products are summed in float32
_UNIT = 2.0**-24
_FAINT = 1e-5  # of the largest eigenvalue


def by_gram(delta: Tensor, shape: tuple[int, ...], wanted: Wanted) -> Certified:
    """The leading triplets of delta [out, in*kh*kw], float32.

    The Gram matrix loses half of the digits; the vectors that it gives are good enough for the Rayleigh-Ritz step on the
    delta itself to make up for it, as its error is the square of theirs. What the step may still miss is bounded by its
    residual and the next eigenvalue, which is known up to the rounding of the sums (Higham, 2002, section 3.1).
    """
    x = lying(delta)
    total = squared(x)
    if not total:
        return nothing(delta, shape, wanted)
    p = x.shape[0]
    gram = x.new_zeros((p, p), dtype=torch.float64)
    for piece in x.split(_PIECE, 1):
        gram += piece @ piece.T
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(gram))
    k = wanted.count(values.clamp_min(0).sqrt(), total) or min(p, wanted.most)
    more = min(p, k + _MORE)
    basis = vectors[:, :more].float()
    if more == p:
        return finished(x, basis, delta, shape, wanted, total, None)
    if float(values[k - 1]) < _FAINT * float(values[0]):  # in the rounding of the sums; not in that of the delta
        basis = torch.linalg.qr(x @ torch.linalg.qr(x.T @ basis)[0])[0]
    rounding = _PIECE * _UNIT / (1 - _PIECE * _UNIT) * total
    steps = torch.arange(1, k + 1, device=x.device, dtype=torch.float64)
    known = values[:k].cumsum(0) + steps.sqrt() * rounding  # Hoffman and Wielandt, 1953
    best = torch.minimum(known, _best(x, basis, float(values[more]) + rounding, k))
    return finished(x, basis, delta, shape, wanted, total, best)


def _best(x: Tensor, basis: Tensor, outside: float, k: int) -> Tensor:
    small = basis.T @ x
    image = (x @ small.T).double()
    wide = basis.double()
    inside = wide.T @ image
    theta, turn = (part.flip(-1) for part in torch.linalg.eigh((inside + inside.T) / 2))
    rest = (image - wide @ inside) @ turn
    return bounds(theta, rest.T @ rest, outside, k)
