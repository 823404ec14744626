"""Masks as they lie beside pictures. Without torch, for the processes that prepare pictures."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from lorakit.data.images import BadPicture, read_file, stored
from lorakit.io.inputs import kind_of


def mask_name(picture: str) -> str:
    """The name of the mask that is written beside a picture."""
    return f"{os.path.splitext(picture)[0]}.mask.png"


def mask_of(files: Sequence[Path]) -> Path | None:
    """The one mask of a picture, None where it has none. BadPicture where one is no file, or two differ."""
    for file in files:
        if (kind := kind_of(file)) != "a file":
            raise BadPicture(f"{file.name} is not a file but {kind or 'a link that leads nowhere'}")
    if len(files) > 1 and len({hashlib.sha256(read_file(file)).digest() for file in files}) > 1:
        raise BadPicture(f"{' and '.join(file.name for file in files)} are masks of one picture and differ; keep one")
    return files[0] if files else None


def _opened(file: Path) -> Image.Image:
    try:
        return ImageOps.exif_transpose(stored(file))
    except BadPicture as error:
        raise BadPicture(f"{file.name} is not a picture that can be read: {error}") from error


def of_file(file: Path, size: tuple[int, int]) -> Image.Image:
    """The mask in `file` for a picture of this size, grey. BadPicture where it has another shape."""
    mask = _opened(file).convert("L")
    if mask.size == size:
        return mask
    if abs(mask.width * size[1] - mask.height * size[0]) > max(mask.size) + max(size):
        raise BadPicture(f"{file.name} is {mask.width}x{mask.height}, but the picture {size[0]}x{size[1]}")
    return mask.resize(size, Image.Resampling.BOX)


def of_alpha(file: Path) -> Image.Image | None:
    """How opaque a picture is, grey; None where it is opaque all over."""
    image = _opened(file)
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return None
    alpha = image.convert("RGBA").getchannel("A")
    return None if alpha.getextrema()[0] == 255 else alpha
