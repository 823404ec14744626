"""A training picture as a step shows it, with everything that is bound to places in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lorakit.data.images import Crop


class Hidden(NamedTuple):
    """What a model that inpaints is given of a picture: the mask [1, h, w], 1 where it is to draw, and mean and spread
    [c, h, w] of the latents of what the mask leaves to be seen."""

    mask: Tensor
    mean: Tensor
    spread: Tensor


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One picture in one orientation: whatever belongs to a place in it lies in the same orientation.

    mean, spread   of its latents, [c, h, w]
    cut            which part of the file is shown, at which size, and whether it is mirrored
    mask           weight of the loss at each latent, [1, h, w]; None where all count the same
    hidden         for a model that inpaints, the masks to choose from; empty for other models
    """

    mean: Tensor
    spread: Tensor
    cut: Crop
    mask: Tensor | None = None
    hidden: Sequence[Hidden] = ()

    def corner(self, source: tuple[int, int]) -> tuple[int, int]:
        """(left, top) of the cut in the whole picture as it is shown, in pixels of the size it is shown at.

        source   (width, height) of the file's picture
        """
        left, top, right, _ = self.cut.box
        scale = self.cut.size[0] / max(1, right - left)
        return round((source[0] - right if self.cut.mirrored else left) * scale), round(top * scale)
