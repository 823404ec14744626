"""The middle, at that size of about the same number of pixels whose shape cuts least off."""

from lorakit.data.crops import PictureView, PlacedCrop
from lorakit.data.images import bucket_of, centre


def target(source: tuple[int, int], size: tuple[int, int], multiple: int) -> tuple[int, int]:
    return bucket_of(source, size[0], multiple)


def place(view: PictureView) -> PlacedCrop:
    return PlacedCrop(centre(view.source, view.target))
