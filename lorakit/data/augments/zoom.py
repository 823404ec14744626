"""A part of 80 to 100 % of the side, somewhere in the old one."""

import dataclasses
import random

from lorakit.data.images import Crop


def draw(chance: random.Random) -> dict[str, float]:
    return {name: round(chance.uniform(*span), 4) for name, span in (("side", (0.8, 1)), ("x", (0, 1)), ("y", (0, 1)))}


def cut(cut: Crop, parameters: dict[str, float]) -> Crop:
    left, top, right, bottom = cut.box
    w = max(1, round((right - left) * parameters["side"]))
    h = max(1, round((bottom - top) * parameters["side"]))
    x = left + round((right - left - w) * parameters["x"])
    y = top + round((bottom - top - h) * parameters["y"])
    return dataclasses.replace(cut, box=(x, y, x + w, y + h))
