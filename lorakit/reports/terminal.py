"""Pictures in a terminal of 24-bit colour: a character is two pixels, one above the other."""

from __future__ import annotations

import numpy as np
from PIL import Image


def half_blocks(picture: np.ndarray, columns: int, rows: int) -> str:
    """A picture [h, w, 3] uint8 in at most so many columns and rows."""
    height, width = picture.shape[:2]
    scale = min(1.0, columns / width, 2 * rows / height)
    size = max(1, round(width * scale)), max(2, round(height * scale / 2) * 2)
    small = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
    lines = []
    for y in range(0, size[1], 2):
        pairs = zip(small[y].tolist(), small[y + 1].tolist(), strict=True)
        cells = (f"\x1b[38;2;{a};{b};{c}m\x1b[48;2;{d};{e};{f}m▀" for (a, b, c), (d, e, f) in pairs)
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)
