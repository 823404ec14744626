"""A weight over the denoising, as people write it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from lorakit.composition.expression import parse as expression
from lorakit.registry import nearest

SHAPES = ("linear", "step", "cosine")
_LONGEST = 10_000
_SHAPED = re.compile(r"(.*):\s*([a-z]+)\s*", re.DOTALL)


@dataclass(frozen=True)
class Curve:
    """Weight by fraction of the denoising, 0 at the first step and 1 at the last.

    text    as it is written: `0@0,1@0.4,0.2@1` (between the points linear, or `:step`, `:cosine`; before the first and
            after the last constant), or an expression of t such as `0.5+0.5*cos(pi*t)`
    """

    text: str
    _at: Callable[[float], float] = field(repr=False, compare=False)

    def at(self, fraction: float) -> float:
        """ValueError where an expression has no finite value."""
        return self._at(fraction)


def read(text: str) -> Curve:
    """ValueError that says what is wrong with it."""
    text = text.strip()
    if len(text) > _LONGEST:
        raise ValueError(f"it has {len(text):,} characters; at most {_LONGEST:,} are read")
    if "@" not in text:
        curve = Curve(text, expression(text))
        for i in range(101):
            curve.at(i / 100)
        return curve
    match = _SHAPED.fullmatch(text)
    body, shape = (match[1], match[2]) if match else (text, "linear")
    if shape not in SHAPES:
        raise ValueError(f"no shape '{shape}'{nearest(shape, SHAPES)} (there are: {', '.join(SHAPES)})")
    points = [_point(piece) for piece in body.split(",")]
    for (before, _), (after, _) in pairwise(points):
        if after <= before:
            raise ValueError(f"its points are out of order: @{after:g} comes after @{before:g}")
    return Curve(text, lambda fraction: _between(points, shape, fraction))


def _point(piece: str) -> tuple[float, float]:
    weight, at, fraction = piece.partition("@")
    try:
        value, place = float(weight), float(fraction)
    except ValueError:
        raise ValueError(f"'{piece.strip()}' is not WEIGHT@FRACTION, such as 0.5@0.3") from None
    if not at or not math.isfinite(value) or not 0 <= place <= 1:
        raise ValueError(f"'{piece.strip()}': expected a number and a fraction of the denoising from 0 to 1")
    return place, value


def _between(points: list[tuple[float, float]], shape: str, fraction: float) -> float:
    before = [point for point in points if point[0] <= fraction + 1e-9]
    after = [point for point in points if point[0] > fraction + 1e-9]
    if not before:
        return after[0][1]
    if not after or shape == "step":
        return before[-1][1]
    (x0, y0), (x1, y1) = before[-1], after[0]
    share = max(0.0, (fraction - x0) / (x1 - x0))
    if shape == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return y0 + (y1 - y0) * share
