"""Faces by OpenCV's cascades, which come with its package."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from lorakit.errors import UsageError

# Cascade, and the least vote that counts. Of 47 photographs without a face one or two reached 107 with the first, the
# same face at many sizes and turns never fell below 108; the default cascade does not tell the two apart.
_CASCADES = (("haarcascade_frontalface_alt.xml", 107.8), ("haarcascade_profileface.xml", 3.0))
_SIDE = 400  # faces are looked for at this longer side: below it cascades miss, above it they imagine


@dataclass(frozen=True)
class Face:
    """A box as shares of the picture (left, top, right, bottom), and the cascade's votes for it."""

    box: tuple[float, float, float, float]
    votes: float


def need_opencv(option: str) -> Any:
    """OpenCV with its cascades; UsageError with the line that installs it."""
    try:
        import cv2
    except ImportError as error:
        raise UsageError(f"{option} needs OpenCV: pip install 'lorakit[face]'") from error
    if not hasattr(cv2, "CascadeClassifier") or not hasattr(cv2, "data"):
        raise UsageError(
            f"{option}: OpenCV {cv2.__version__} has no face cascades; pip install 'lorakit[face]' installs 4.x"
        )
    return cv2


@lru_cache
def _cascade(name: str) -> Any:
    """Reading one takes longer than looking with it."""
    cv2 = need_opencv("faces")
    return cv2.CascadeClassifier(cv2.data.haarcascades + name)


def find_faces(image: Image.Image) -> list[Face]:
    """Faces from the front, then from either side; the largest first. Overlapping finds are one face."""
    cv2 = need_opencv("faces")
    scale = min(1.0, _SIDE / max(image.size))
    small = image.convert("L").resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BOX
    )
    grey = cv2.equalizeHist(np.ascontiguousarray(small))
    least = max(24, min(grey.shape) // 12)
    found: list[Face] = []
    for (name, enough), mirrored in ((_CASCADES[0], False), (_CASCADES[1], False), (_CASCADES[1], True)):
        finder = _cascade(name)
        where = grey[:, ::-1] if mirrored else grey
        boxes, _, votes = finder.detectMultiScale3(
            np.ascontiguousarray(where), 1.1, 5, minSize=(least, least), outputRejectLevels=True
        )
        for (x, y, w, h), vote in zip(boxes, np.ravel(votes), strict=True):
            left = grey.shape[1] - x - w if mirrored else x
            box = (left / grey.shape[1], y / grey.shape[0], (left + w) / grey.shape[1], (y + h) / grey.shape[0])
            face = Face(tuple(round(float(b), 4) for b in box), round(float(vote), 2))  # type: ignore[arg-type]
            if vote >= enough and not any(_overlap(face, other) for other in found):
                found.append(face)
    return sorted(found, key=lambda f: (-(f.box[2] - f.box[0]) * (f.box[3] - f.box[1]), f.box))


def _overlap(a: Face, b: Face) -> bool:
    width = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    height = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    if width <= 0 or height <= 0:
        return False
    least = min((f.box[2] - f.box[0]) * (f.box[3] - f.box[1]) for f in (a, b))
    return width * height > 0.3 * least
