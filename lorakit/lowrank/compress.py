"""Factors to fewer factors."""

import torch
from torch import Tensor


def spectrum(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The singular value decomposition of up @ down without forming it: QR of both factors and one small SVD.

    up [out, r], down [r, in], float; r may exceed out and in. Gives u [out, k], s [k], vh [k, in], k = min(r, out, in),
    in float32; computed in float64, because the factors of a sum may cancel.
    """
    q_up, r_up = torch.linalg.qr(up.double())
    q_down, r_down = torch.linalg.qr(down.double().T)
    u, s, vh = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    return (q_up @ u).float(), s.float(), (vh @ q_down.T).float()


def compress(up: Tensor, down: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The best factors of rank `rank` of up @ down, and the relative error in Frobenius norm.

    up [out, r], down [r, in]; gives up [out, k], down [k, in] with k = min(rank, r, out, in), balanced. Eckart and
    Young, 1936.
    """
    u, s, vh = spectrum(up, down)
    k = min(rank, len(s))
    root = s[:k].sqrt()
    total = float(s.double().square().sum())
    error = (float(s[k:].double().square().sum()) / total) ** 0.5 if total else 0.0
    return u[:, :k] * root, root[:, None] * vh[:k], error
