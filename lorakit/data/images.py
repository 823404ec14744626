"""Pictures as they should be seen: upright, sRGB, 8 bits, nothing hidden; and cut to size."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
_MOST_PIXELS = 200_000_000

Image.MAX_IMAGE_PIXELS = None  # checked below, as an error and not a warning


class BadPicture(Exception):
    """Why a picture cannot be used, in a few words."""


def find(folder: Path) -> list[Path]:
    """Picture files below `folder` in sorted order; hidden files and folders are left out."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit and float greys scaled to 8 bits, not clipped."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float64)
        top = 65535 if values.max() > 255 else 255 if values.max() > 1 else 1
        return Image.fromarray((np.nan_to_num(values) / top * 255).clip(0, 255).round().astype(np.uint8))
    return image


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if not profile:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode not in ("RGB", "CMYK", "L"):
            image = image.convert("RGB")
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError):
        return image  # a broken profile: the numbers as they are


def load(file: Path, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """An upright RGB picture. BadPicture, with the reason, for anything that cannot be read whole."""
    if not file.is_file():
        raise BadPicture("not a regular file")
    if file.stat().st_size == 0:
        raise BadPicture("empty file")
    try:
        with warnings.catch_warnings(), Image.open(file, formats=_FORMATS) as opened:
            warnings.simplefilter("ignore")
            if opened.width * opened.height > _MOST_PIXELS:
                raise BadPicture(f"{opened.width}x{opened.height} is too large")
            frames = getattr(opened, "n_frames", 1)
            if frames > 1 and opened.format in ("GIF", "WEBP"):
                raise BadPicture(f"animated, {frames} frames")
            opened.load()
            profile = opened.info.get("icc_profile")
            image = ImageOps.exif_transpose(opened)
    except BadPicture:
        raise
    except UnidentifiedImageError as error:
        raise BadPicture("not a picture that can be read") from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, OverflowError) as error:
        raise BadPicture(f"damaged: {str(error) or type(error).__name__}") from error
    image = _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        under = Image.new("RGBA", image.size, (*background, 255))
        return Image.alpha_composite(under, image).convert("RGB")
    return _to_srgb(image, profile).convert("RGB")


@dataclass(frozen=True)
class Cut:
    """A crop in source pixels (left, top, right, bottom) and the size it is drawn at; `pad` fits the whole in."""

    box: tuple[int, int, int, int]
    size: tuple[int, int]
    pad: bool = False


def centre(source: tuple[int, int], size: tuple[int, int]) -> Cut:
    """The largest middle part of `source` that has the shape of `size`; both (width, height)."""
    width, height = source
    scale = min(width / size[0], height / size[1])
    w, h = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    left, top = (width - w) // 2, (height - h) // 2
    return Cut((left, top, left + w, top + h), size)


def bucket_sizes(size: int, multiple: int) -> list[tuple[int, int]]:
    """Sizes (width, height) of about size² pixels, sides multiples of `multiple`, aspect ratios up to 2:1."""
    sizes = {(size, size)}
    for long in range(size, size * 3 // 2 + 1, multiple):
        short = max(multiple, round(size * size / long / multiple) * multiple)
        if long <= 2 * short:
            sizes |= {(long, short), (short, long)}
    return sorted(sizes)


def bucket(source: tuple[int, int], size: int, multiple: int) -> Cut:
    """The bucket that cuts least off, and the middle part that fits it."""
    ratio = source[0] / source[1]
    best = min(bucket_sizes(size, multiple), key=lambda s: (abs(np.log(s[0] / s[1] / ratio)), s))
    return centre(source, best)


def cut(image: Image.Image, how: Cut, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """The part of the picture at its size, by Lanczos."""
    part = image.crop(how.box)
    if not how.pad:
        return part if part.size == how.size else part.resize(how.size, Image.Resampling.LANCZOS)
    whole = ImageOps.contain(part, how.size, Image.Resampling.LANCZOS)
    return ImageOps.pad(whole, how.size, color=background)
