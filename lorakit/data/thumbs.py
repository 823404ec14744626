"""Small pictures for reports, as text that fits into JSON and pages."""

import base64
import io

from PIL import Image

SIDE = 208  # the longer side


def data_uri(picture: Image.Image) -> str:
    """A JPEG of a few kilobytes as a data URI."""
    scale = SIDE / max(picture.size)
    if scale < 1:
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=75 if scale < 1 else 92)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
