"""What the denoiser should say, and how much each timestep counts."""

import torch
from torch import Tensor

from lorakit.errors import InputError


def target(latents: Tensor, noise: Tensor, alphas: Tensor, prediction_type: str) -> Tensor:
    """The tensor to predict, [b, c, h, w]: noise, the picture, or v (Salimans and Ho, 2022)."""
    a = alphas[:, None, None, None]
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return latents
    if prediction_type == "v_prediction":
        return a.sqrt() * noise - (1 - a).sqrt() * latents
    raise InputError(f"the model's scheduler predicts '{prediction_type}', which lorakit does not know")


def min_snr_weight(alphas: Tensor, gamma: float | None, prediction_type: str) -> Tensor:
    """Loss weight of each timestep, [b] in and out, capped at SNR = gamma; ones without gamma. Hang et al., 2023."""
    if gamma is None:
        return torch.ones_like(alphas)
    snr = alphas / (1 - alphas).clamp(min=1e-12)
    capped = snr.clamp(max=gamma)
    if prediction_type == "v_prediction":
        return capped / (snr + 1)  # the v target itself weighs SNR + 1
    return capped / snr.clamp(min=1e-12) if prediction_type == "epsilon" else capped
