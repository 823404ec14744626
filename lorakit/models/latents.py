"""The autoencoder's latents as the denoiser knows them: of about unit spread. Training and drawing both come through here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

KEYS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")


def moments(config: Mapping[str, Any], mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """What the denoiser is shown of a posterior's mean and spread, [b, c, h, w] each.

    config   the autoencoder's: (latents - latents_mean) * scaling_factor / latents_std, by channel, as in diffusers' pipelines
             of SDXL; or (latents - shift_factor) * scaling_factor
    """
    factor, middle = _factor(config, mean), _middle(config, mean)
    return ((mean if middle is None else mean - middle) * factor, spread * factor)


def decodable(config: Mapping[str, Any], latents: Tensor) -> Tensor:
    """The latents [b, c, h, w] that the autoencoder decodes, of what the denoiser knows."""
    factor, middle = _factor(config, latents), _middle(config, latents)
    found: Tensor = latents / factor
    return found if middle is None else found + middle


def _factor(config: Mapping[str, Any], like: Tensor) -> float | Tensor:
    factor, spread = config.get("scaling_factor", 1.0), config.get("latents_std")
    return factor if spread is None else factor / _by_channel(spread, like)


def _middle(config: Mapping[str, Any], like: Tensor) -> float | Tensor | None:
    mean = config.get("latents_mean")
    return config.get("shift_factor") if mean is None else _by_channel(mean, like)


def _by_channel(row: Any, like: Tensor) -> Tensor:
    return torch.tensor(row, device=like.device, dtype=torch.float32).view(1, -1, 1, 1)
