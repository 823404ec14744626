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
