"""Faces, found by OpenCV's cascades, as soft ellipses; where there is none, the whole picture."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFilter

from lorakit.data.faces import find_faces, need_opencv
from lorakit.masks import Make, MaskSettings


def identity(how: MaskSettings) -> list[str]:
    return ["haarcascade", "1"]


def _mask(picture: Image.Image) -> Image.Image:
    faces = find_faces(picture)
    if not faces:
        return Image.new("L", picture.size, 255)
    mask = Image.new("L", picture.size, 0)
    pen = ImageDraw.Draw(mask)
    for face in faces:
        left, top, right, bottom = (b * s for b, s in zip(face.box, picture.size * 2, strict=True))
        x, y, w, h = (right - left) * 0.15, (bottom - top) * 0.2, right - left, bottom - top
        pen.ellipse((left - x, top - 1.5 * y, left + w + x, top + h + y), fill=255)  # hair and chin as well
    return mask.filter(ImageFilter.GaussianBlur(max(picture.size) / 64))


def load(how: MaskSettings) -> Make:
    need_opencv("--mask face")

    def make(pictures: Sequence[Image.Image]) -> list[Image.Image]:
        return [_mask(picture) for picture in pictures]

    return make
