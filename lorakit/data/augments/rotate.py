"""Turned by up to 10 degrees; as much smaller a part is drawn as keeps all of it inside the old one."""

import dataclasses
import math
import random

from lorakit.data.images import Crop


def draw(chance: random.Random) -> dict[str, float]:
    return {"angle": round(chance.uniform(-10, 10), 2)}


def cut(cut: Crop, parameters: dict[str, float]) -> Crop:
    if cut.pad:
        return dataclasses.replace(cut, angle=cut.angle + parameters["angle"])
    left, top, right, bottom = cut.box
    w, h = right - left, bottom - top
    sine, cosine = abs(math.sin(math.radians(parameters["angle"]))), math.cos(math.radians(parameters["angle"]))
    share = min(w / (w * cosine + h * sine), h / (w * sine + h * cosine))
    dx, dy = math.ceil(w * (1 - share) / 2) + 1, math.ceil(h * (1 - share) / 2) + 1  # one for the filter
    box = (left + dx, top + dy, max(left + dx + 1, right - dx), max(top + dy + 1, bottom - dy))
    return dataclasses.replace(cut, box=box, angle=cut.angle + parameters["angle"])
