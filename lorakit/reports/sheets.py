"""Sheets of pictures to look at: labelled tables and strips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, _INK, _SOFT = (255, 255, 255), (20, 20, 24), (110, 110, 118)
_GAP, _LEAST = 6, 160  # pixels; a cell is enlarged by whole numbers until it is so wide


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _enlarged(picture: np.ndarray, factor: int) -> Image.Image:
    image = Image.fromarray(picture)
    return (
        image if factor == 1 else image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    )


def wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """The text in lines that are no wider; a word that is wider is broken. Control characters become spaces."""
    lines: list[str] = []
    for word in "".join(c if c.isprintable() else " " for c in text).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        while font.getlength(word) > width and len(word) > 1:
            n = next((n for n in range(len(word) - 1, 0, -1) if font.getlength(word[:n]) <= width), 1)
            lines.append(word[:n])
            word = word[n:]
        lines.append(word)
    return lines


def table(
    pictures: Sequence[Sequence[np.ndarray]], columns: Sequence[str], rows: Sequence[str], title: str = ""
) -> Image.Image:
    """Pictures [h, w, 3] by row and column under their labels; cells are as large as the largest picture."""
    width = max(x.shape[1] for row in pictures for x in row)
    height = max(x.shape[0] for row in pictures for x in row)
    factor = max(1, -(-_LEAST // width))
    cell = (width * factor, height * factor)
    font, large = _font(max(13, cell[0] // 14)), _font(max(15, cell[0] // 11))
    step = font.getbbox("Ag")[3] + 4
    left = min(cell[0], int(max((font.getlength(label) for label in rows), default=0)) + 2 * _GAP) if any(rows) else 0
    sheet_width = left + len(columns) * (cell[0] + _GAP) + _GAP
    heading = wrapped(title, sheet_width - 2 * _GAP, large)
    line = large.getbbox("Ag")[3] + 5
    heads = [wrapped(label, cell[0], font) for label in columns]
    top = _GAP + len(heading) * line + max(map(len, heads), default=0) * step + _GAP
    sheet = Image.new("RGB", (int(sheet_width), int(top + len(pictures) * (cell[1] + _GAP))), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, text in enumerate(heading):
        pen.text((_GAP, _GAP + i * line), text, _INK, large)
    for j, lines in enumerate(heads):
        for i, text in enumerate(lines):
            x = left + _GAP + j * (cell[0] + _GAP) + (cell[0] - font.getlength(text)) / 2
            pen.text((x, top - _GAP - (len(lines) - i) * step), text, _SOFT, font)
    for i, (row, label) in enumerate(zip(pictures, rows, strict=True)):
        y = top + i * (cell[1] + _GAP)
        lines = wrapped(label, left - 2 * _GAP, font) if left else []
        for k, text in enumerate(lines):
            pen.text((_GAP, y + (cell[1] - len(lines) * step) / 2 + k * step), text, _SOFT, font)
        for j, picture in enumerate(row):
            sheet.paste(_enlarged(picture, factor), (int(left + _GAP + j * (cell[0] + _GAP)), int(y)))
    return sheet


def strip(pictures: Sequence[np.ndarray], labels: Sequence[str]) -> Image.Image:
    """Pictures side by side under their labels."""
    return table([pictures], labels, [""])
