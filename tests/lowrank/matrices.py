"""Matrices whose singular values are known."""

import torch
from torch import Tensor


def with_values(out: int, into: int, values, seed: int = 0) -> Tensor:
    """[out, into] with these singular values, float32."""
    draw = torch.Generator().manual_seed(seed)
    k = len(values)
    u = torch.linalg.qr(torch.randn(out, k, generator=draw, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(into, k, generator=draw, dtype=torch.float64))[0]
    return ((u * torch.as_tensor(values, dtype=torch.float64)) @ v.T).float()


def optimum(delta: Tensor, rank: int) -> float:
    """The squared norm that the best matrix of this rank holds, by a full decomposition in float64."""
    return float(torch.linalg.svdvals(delta.double())[:rank].square().sum())


def fine_tuned(out: int, into: int, seed: int = 0) -> Tensor:
    """64 falling directions and a tenth of the energy in noise, as the research's figures are of."""
    draw = torch.Generator().manual_seed(seed)
    up = torch.randn(out, 64, generator=draw) * torch.arange(1, 65) ** -0.7
    delta = up @ torch.randn(64, into, generator=draw)
    noise = torch.randn(out, into, generator=draw)
    return delta + noise * (delta.norm() / noise.norm() / 3)
