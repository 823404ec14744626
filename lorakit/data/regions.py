"""Masks of the places in a picture where one adapter acts."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from lorakit.data.images import BadPicture, stored
from lorakit.errors import InputError


def region_map(file: Path, feather: float, size: tuple[int, int], factor: int) -> Tensor:
    """A mask of the picture's size as a map of the latents [1, 1, h, w], 0 to 1. InputError for one of another shape."""
    try:
        mask = stored(file).convert("L")
    except BadPicture as error:
        raise InputError(f"{file}: the region is no picture to be read: {error}") from error
    if mask.size != size and abs(mask.width / mask.height - size[0] / size[1]) > 0.01:
        raise InputError(
            f"{file}: the region is {mask.width}x{mask.height}, the picture {size[0]}x{size[1]}: another shape"
        )
    if mask.size != size:
        mask = mask.resize(size, Image.Resampling.BOX)
    if feather:
        mask = mask.filter(ImageFilter.GaussianBlur(feather))
    small = mask.resize((size[0] // factor, size[1] // factor), Image.Resampling.BOX)
    found = torch.from_numpy(np.asarray(small, dtype=np.float32) / 255)[None, None]
    if not found.any():
        raise InputError(f"{file}: the region is black everywhere; white is where the adapter acts")
    return found
