"""Curves over the denoising, as a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from lorakit.reports.sheets import wrapped

_COLOURS = ((42, 111, 219), (222, 99, 38), (38, 150, 82), (170, 60, 170), (190, 150, 20), (20, 150, 170), (200, 50, 80))
_PAPER, _INK, _SOFT, _LINE = (255, 255, 255), (20, 20, 24), (110, 110, 118), (226, 226, 232)
_FINE = 3  # drawn so many times larger, and scaled down: lines without steps


def plot(
    curves: Mapping[str, Sequence[float]],
    title: str,
    label: str,
    *,
    stairs: bool = False,
    size: tuple[int, int] = (900, 420),
    ticks: Sequence[str] = (),
) -> Image.Image:
    """Values by name over their index, with a legend.

    stairs    each value holds until the next: what steps see
    ticks     what stands under the first and the last value
    """
    values = [v for curve in curves.values() for v in curve] or [0.0]
    low, high = min(0.0, *values), max(0.0, *values)
    step = _round_step(high - low or 1.0)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    high = high if high > low else low + step
    width, height = size[0] * _FINE, size[1] * _FINE
    font, large = ImageFont.load_default(14 * _FINE), ImageFont.load_default(17 * _FINE)
    legend = max((int(font.getlength(name)) for name in curves), default=0)
    legend = min(legend, width // 3) + 40 * _FINE
    box = (60 * _FINE, 48 * _FINE, width - legend - 20 * _FINE, height - 44 * _FINE)
    image = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((box[0], 12 * _FINE), title, _INK, large)

    def y_of(value: float) -> float:
        return box[3] - (value - low) / (high - low) * (box[3] - box[1])

    for i in range(round((high - low) / step) + 1):
        value = low + step * i
        pen.line((box[0], y_of(value), box[2], y_of(value)), _LINE, _FINE)
        text = f"{value:.3g}"
        pen.text((box[0] - 8 * _FINE - font.getlength(text), y_of(value) - 9 * _FINE), text, _SOFT, font)
    pen.line((box[0], y_of(0.0), box[2], y_of(0.0)), _SOFT, _FINE)
    pen.text((box[0], box[3] + 8 * _FINE), ticks[0] if ticks else "0", _SOFT, font)
    last = ticks[-1] if ticks else ""
    pen.text((box[2] - font.getlength(last), box[3] + 8 * _FINE), last, _SOFT, font)
    pen.text(((box[0] + box[2] - font.getlength(label)) / 2, box[3] + 22 * _FINE), label, _SOFT, font)
    for number, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        _draw(pen, curve, box, y_of, colour, stairs)
        y = box[1] + number * 24 * _FINE
        pen.rectangle((box[2] + 18 * _FINE, y + 5 * _FINE, box[2] + 30 * _FINE, y + 13 * _FINE), colour)
        pen.text((box[2] + 36 * _FINE, y), (wrapped(name, legend - 40 * _FINE, font) or [""])[0], _INK, font)
    return image.resize(size, Image.Resampling.LANCZOS)


def _round_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, three to seven of which make the span."""
    power = 10.0 ** math.floor(math.log10(span / 3))
    return max(k * power for k in (1, 2, 5) if k * power <= span / 3 * 1.0001)


def _draw(
    pen: ImageDraw.ImageDraw,
    curve: Sequence[float],
    box: tuple[int, ...],
    y_of: Callable[[float], float],
    colour: tuple[int, int, int],
    stairs: bool,
) -> None:
    n = len(curve)
    if stairs:
        edges = [box[0] + (box[2] - box[0]) * i / n for i in range(n + 1)]
        points = [(x, y_of(v)) for i, v in enumerate(curve) for x in (edges[i], edges[i + 1])]
    else:
        points = [(box[0] + (box[2] - box[0]) * i / max(1, n - 1), y_of(v)) for i, v in enumerate(curve)]
    if len(points) > 1:
        pen.line(points, colour, 3 * _FINE, joint="curve")
