"""Pictures as they should be seen: upright, sRGB, 8 bits, nothing hidden; and cut to size."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lorakit.data.colours import WHITE
from lorakit.data.decode import FORMATS, HEIC_SUFFIXES, BadPicture, as_stored, decode
from lorakit.errors import InputError
from lorakit.io.inputs import open_to_read

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", *HEIC_SUFFIXES})
_MOST_BYTES = 1 << 30
MOST_PIXELS = 200_000_000


def read_file(file: Path) -> bytes:
    """The bytes of a regular file; BadPicture for what is none, cannot be read or is over 1 GiB."""
    try:
        handle = open_to_read(file, "a picture")
    except InputError as error:
        raise BadPicture("not a regular file" if file.exists() else str(error.__cause__ or "no such file")) from error
    with open(handle, "rb") as opened:
        size = os.fstat(handle).st_size
        if size > _MOST_BYTES:
            raise BadPicture(f"{size / 1e9:.1f} GB are too much for one picture")
        try:
            return opened.read()
        except OSError as error:
            raise BadPicture(f"cannot be read: {error.strerror}") from error


def stored(file: Path, formats: tuple[str, ...] = (*FORMATS, "PPM", "TGA")) -> Image.Image:
    """A picture whole, in the mode that it is stored in and as it lies; BadPicture as `load`."""
    return as_stored(read_file(file), formats, MOST_PIXELS)


def as_written(file: Path) -> Image.Image:
    """A picture of a folder that lorakit writes, in RGB; InputError, which names it, where it is damaged."""
    try:
        return stored(file).convert("RGB")
    except BadPicture as error:
        raise InputError(f"{file}: {error}") from error


def load(file: Path, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """An upright RGB picture. BadPicture, with the reason, for anything that cannot be read whole."""
    return decode(read_file(file), background=background, most_pixels=MOST_PIXELS).image


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A part of a picture and how it is drawn.

    box        in source pixels: left, top, right, bottom
    size       of what is drawn: width, height
    pad        the whole box is fitted in, on plain borders
    angle      degrees counter-clockwise that the picture is turned about the box's middle
    mirrored   left and right change places, last
    """

    box: tuple[int, int, int, int]
    size: tuple[int, int]
    pad: bool = False
    angle: float = 0.0
    mirrored: bool = False

    @property
    def scale(self) -> float:
        """Source pixels along one drawn pixel: below 1 the picture is enlarged."""
        across, down = (self.box[2] - self.box[0]) / self.size[0], (self.box[3] - self.box[1]) / self.size[1]
        return max(across, down) if self.pad else min(across, down)


def centre(source: tuple[int, int], size: tuple[int, int]) -> Crop:
    """The largest middle part of `source` that has the shape of `size`; both (width, height)."""
    w, h = largest(source, size)
    left, top = (source[0] - w) // 2, (source[1] - h) // 2
    return Crop(box=(left, top, left + w, top + h), size=size)


def largest(source: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """The largest (width, height) within `source` that has the shape of `size`."""
    scale = min(source[0] / size[0], source[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def bucket_sizes(size: int, multiple: int) -> list[tuple[int, int]]:
    """Sizes (width, height) of about size² pixels, sides multiples of `multiple`, aspect ratios up to 2:1."""
    sizes = {(size, size)}
    for long in range(size, size * 3 // 2 + 1, multiple):
        short = max(multiple, round(size * size / long / multiple) * multiple)
        if long <= 2 * short:
            sizes |= {(long, short), (short, long)}
    return sorted(sizes)


def bucket_of(source: tuple[int, int], size: int, multiple: int) -> tuple[int, int]:
    """The bucket whose shape is nearest to that of `source`."""
    ratio = source[0] / source[1]
    return min(bucket_sizes(size, multiple), key=lambda s: (abs(np.log(s[0] / s[1] / ratio)), s))


def bucket(source: tuple[int, int], size: int, multiple: int) -> Crop:
    """The bucket that cuts least off, and the middle part that fits it."""
    return centre(source, bucket_of(source, size, multiple))


def cut(
    image: Image.Image, how: Crop, background: tuple[int, int, int] = WHITE, source: tuple[int, int] | None = None
) -> Image.Image:
    """The part of the picture at its size, by Lanczos; of a grey mask without overshoot, on black borders.

    source   the full size that the box counts in, where `image` was decoded smaller
    """
    is_mask = image.mode == "L"
    kernel = Image.Resampling.BILINEAR if is_mask else Image.Resampling.LANCZOS
    border = 0 if is_mask else background
    across, down = (image.width / source[0], image.height / source[1]) if source else (1.0, 1.0)
    left, top, right, bottom = (b * s for b, s in zip(how.box, (across, down, across, down), strict=True))
    if how.angle:
        image, (left, top, right, bottom) = _turned(image, (left, top, right, bottom), how.angle)
    if how.pad:
        part = image.crop((round(left), round(top), round(right), round(bottom)))
        drawn = ImageOps.pad(ImageOps.contain(part, how.size, kernel), how.size, color=border)
    elif (right - left, bottom - top) == how.size:
        drawn = image.crop((round(left), round(top), round(right), round(bottom)))
    elif how.angle:  # nothing beyond the box may come in: out there the turned picture has black corners
        inside = (
            math.ceil(left),
            math.ceil(top),
            max(math.ceil(left) + 1, int(right)),
            max(math.ceil(top) + 1, int(bottom)),
        )
        drawn = image.crop(inside).resize(how.size, kernel)
    elif source:
        drawn = image.resize(how.size, kernel, box=(left, top, right, bottom))
    else:
        drawn = image.crop(how.box).resize(how.size, kernel)
    return ImageOps.mirror(drawn) if how.mirrored else drawn


def _turned(
    image: Image.Image, box: tuple[float, float, float, float], angle: float
) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """What is around the box, turned about the box's middle, and where the box is in it."""
    left, top, right, bottom = box
    x, y, reach = (left + right) / 2, (top + bottom) / 2, math.hypot(right - left, bottom - top) / 2 + 4
    corner = max(0, math.floor(x - reach)), max(0, math.floor(y - reach))
    part = image.crop((*corner, min(image.width, math.ceil(x + reach)), min(image.height, math.ceil(y + reach))))
    middle = x - corner[0], y - corner[1]
    kernel = Image.Resampling.BILINEAR if image.mode == "L" else Image.Resampling.BICUBIC
    turned = part.rotate(angle, kernel, center=middle)
    return turned, (left - corner[0], top - corner[1], right - corner[0], bottom - corner[1])
