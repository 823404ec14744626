"""A contact sheet: all pictures of a set on one PNG, with their names."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from lorakit.data.images import as_written
from lorakit.data.pngtext import drafted

_CELL, _GAP, _MOST = 168, 8, 600
_GROUND, _INK, _FAINT = (250, 250, 250), (30, 30, 30), (110, 110, 110)


def _short(pen: ImageDraw.ImageDraw, text: str, font: Any) -> str:
    plain = "".join(c if c.isprintable() else "?" for c in text.replace("\n", " / "))
    while len(plain) > 4 and pen.textlength(plain, font) > _CELL:
        plain = plain[:-4].rstrip() + "…"
    return plain


def write(file: Path, data: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a contact sheet of the training set `data` to `file`, as PNG: each picture whole in its square, name and
    caption below."""
    chosen: list[tuple[str, str, tuple[int, int]]] = []
    left = 0
    for row in rows:
        if len(chosen) < _MOST:
            chosen.append((row["file_name"], row["text"], row["size"]))
        else:
            left += 1
    across = max(1, min(8, math.ceil(math.sqrt(len(chosen) * 1.4))))
    tallest = max((min(1.0, h / w) for _, _, (w, h) in chosen), default=1.0)
    cell, line = round(_CELL * tallest), 15
    high = cell + 2 * line + _GAP
    down = math.ceil(len(chosen) / across)
    sheet = Image.new("RGB", (across * (_CELL + _GAP) + _GAP, down * high + _GAP + line * bool(left)), _GROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (name, text, _) in enumerate(chosen):
        x, y = _GAP + number % across * (_CELL + _GAP), _GAP + number // across * high
        picture = as_written(data / name)
        scale = min(_CELL / picture.width, cell / picture.height)
        small = picture.resize(
            (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))),
            Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST,
        )
        sheet.paste(small, (x + (_CELL - small.width) // 2, y + (cell - small.height) // 2))
        pen.text((x, y + cell + 1), _short(pen, name, font), _INK, font)
        pen.text((x, y + cell + line), _short(pen, text or "no caption", font), _FAINT, font)
    if left:
        pen.text((_GAP, down * high), f"and {left} more pictures", _INK, font)
    sheet.save(file, "PNG", optimize=False, pnginfo=drafted())
