"""The largest part of the right shape, anywhere; the same file is always cut at the same place."""

import random

from lorakit.data.crops import PictureView, PlacedCrop
from lorakit.data.images import Crop, largest


def place(view: PictureView) -> PlacedCrop:
    w, h = largest(view.source, view.target)
    draw = random.Random(f"{view.seed}/crop")
    left, top = draw.randint(0, view.source[0] - w), draw.randint(0, view.source[1] - h)
    return PlacedCrop(Crop(box=(left, top, left + w, top + h), size=view.target))
