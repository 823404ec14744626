"""A dense delta to its best factors."""

import torch
from torch import Tensor


def factorize(delta: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The closest rank-`rank` factors of a weight delta.

    delta   [out, in], any float dtype; the work is done in float32
    rank    at least 1; what exceeds min(out, in) is cut to it
    gives   up [out, r], down [r, in], and all singular values, largest first; the factors share the values evenly
    raises  ValueError for a rank below 1

    Eckart and Young, 1936.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    u, s, vh = torch.linalg.svd(delta.float(), full_matrices=False)
    rank = min(rank, len(s))
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank], s


def rank_for_energy(singular_values: Tensor, share: float) -> int:
    """The least rank that keeps `share` (0 to 1) of the squared Frobenius norm; at least 1."""
    energy = singular_values.double().square().cumsum(0)
    if float(energy[-1]) == 0:
        return 1
    return min(len(energy), 1 + int((energy < share * energy[-1] * (1 - 1e-12)).sum()))
