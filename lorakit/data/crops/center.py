"""The middle of the picture."""

from lorakit.data.crops import PictureView, PlacedCrop
from lorakit.data.images import centre


def place(view: PictureView) -> PlacedCrop:
    return PlacedCrop(centre(view.source, view.target))
