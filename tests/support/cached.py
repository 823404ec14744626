"""Encoded pictures made of given latents, without files and without an encoder."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lorakit.data.images import Crop
from lorakit.training.cache import Cached
from lorakit.training.placed import Hidden, Placed


def cached(means: Sequence[Tensor], *, spread: float = 0.0, hidden: Sequence[Hidden] = ()) -> Cached:
    """A set whose picture i has latents of mean means[i], shown once an epoch; all have the same `hidden`."""
    how = Crop(box=(0, 0, 8, 8), size=(8, 8))
    placed = [Placed(mean=x, spread=torch.full_like(x, spread), cut=how, hidden=hidden) for x in means]
    return Cached(
        placed=placed, mirrored=[], repeats=[1] * len(means), keys=[f"picture {i}" for i in range(len(means))]
    )
