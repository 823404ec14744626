"""Masks: where a picture is learnt from, and what an inpainting model has to fill in."""

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lorakit.data.images import BadPicture, Crop
from lorakit.data.mask_files import of_alpha, of_file

__all__ = ["draw", "for_latents", "hidden", "loss_weights", "of_alpha", "of_file"]


def loss_weights(mask: Image.Image, how: Crop, latent: tuple[int, int], unmasked: float = 0.0) -> Tensor | None:
    """Weights [1, h, w] of the loss of each latent pixel, of mean 1; None where all are the same.

    mask        grey picture of the source's size; white counts 1, black counts `unmasked`
    how         the cut of the picture
    latent      (width, height) of the latents
    raises      BadPicture where nothing is left to learn

    The mask is reduced by area, so that a latent pixel half inside counts half. Of mean 1, so that a small subject
    does not mean a low rate; None, so that a mask of ones is no mask to the bit.
    """
    if not 0 <= unmasked <= 1:
        raise ValueError(f"the weight of what is not in the mask must be 0 to 1, got {unmasked}")
    part = mask.crop(how.box).convert("F")
    if how.pad:
        part = ImageOps.pad(part, how.size, Image.Resampling.BOX, color=0)
    if how.mirrored:
        part = ImageOps.mirror(part)
    small = np.asarray(part.resize(latent, Image.Resampling.BOX), np.float64) / 255
    weights = unmasked + (1 - unmasked) * small
    if weights.max() <= 0:
        raise BadPicture("its mask leaves nothing to learn")
    if weights.max() == weights.min():
        return None
    return torch.from_numpy((weights / weights.mean()).astype(np.float32))[None]


def draw(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A mask [1, h, w] of ones, to be filled in, and zeros: up to eight rectangles and ellipses, or with a chance of a
    quarter all of it, so that a model learns to draw without help too."""
    width, height = size
    whole, count = torch.rand(2, generator=generator).tolist()
    if whole < 0.25:
        return torch.ones(1, height, width)
    x, y = (torch.arange(width) + 0.5) / width, ((torch.arange(height) + 0.5) / height)[:, None]
    covered = torch.zeros(height, width, dtype=torch.bool)
    for _ in range(1 + int(count * 8)):
        cx, cy, a, b, kind = torch.rand(5, generator=generator).tolist()
        dx, dy = (x - cx) / (0.05 + 0.25 * a), (y - cy) / (0.05 + 0.25 * b)
        covered |= (dx**2 + dy**2 < 1) if kind < 0.5 else (dx.abs() < 1) & (dy.abs() < 1)
    return covered.float()[None]


def hidden(picture: Tensor, mask: Tensor) -> Tensor:
    """A picture [..., 3, h, w] in -1..1 with grey where the mask [..., 1, h, w] is to be filled in, as inpainting
    models were trained (Rombach et al., 2022)."""
    return picture * (mask < 0.5)


def either(grey: Tensor) -> Tensor:
    """A grey mask, 0 to 255, as inpainting takes it: 1, to be filled in, from half way to white on, else 0."""
    return (grey >= 127.5).float()


def for_latents(mask: Tensor, factor: int) -> Tensor:
    """[..., h, w] to [..., h/factor, w/factor], the nearest pixel, as the samplers of inpainting models do it."""
    return mask[..., ::factor, ::factor].contiguous()
