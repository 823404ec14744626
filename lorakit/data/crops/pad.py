"""The whole picture, on plain borders."""

from lorakit.data.crops import PictureView, PlacedCrop
from lorakit.data.images import Crop


def place(view: PictureView) -> PlacedCrop:
    return PlacedCrop(Crop(box=(0, 0, *view.source), size=view.target, pad=True))
