"""Classifier-free guidance: what the model says with the prompt, made more of."""

import torch
from torch import Tensor


def guided(without: Tensor, given: Tensor, guidance: float, rescale: float = 0.0) -> Tensor:
    """without + guidance * (given - without), [b, c, h, w]. Ho and Salimans, 2022.

    rescale   share, 0 to 1, of the way back to the spread of `given`, by picture, against overexposure. Lin et al., 2024
    """
    told = without + guidance * (given - without)
    if not rescale:
        return told
    spread = given.std((1, 2, 3), keepdim=True) / told.std((1, 2, 3), keepdim=True).clamp(min=1e-12)
    return told * (rescale * spread + (1 - rescale))


def embedded(guidance: float, width: int) -> Tensor:
    """The guidance as a UNet is told it that was distilled with it, [1, width], float32. Luo et al., 2023; as diffusers does."""
    half = width // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = torch.tensor(guidance - 1) * 1000.0 * rates
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()]), (0, width % 2))[None]
