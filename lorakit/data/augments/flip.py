"""Left and right change places, in half of the copies."""

import dataclasses
import random

from lorakit.data.images import Crop


def draw(chance: random.Random) -> dict[str, float]:
    return {"mirrored": int(chance.random() < 0.5)}


def cut(cut: Crop, parameters: dict[str, float]) -> Crop:
    return dataclasses.replace(cut, mirrored=cut.mirrored != bool(parameters["mirrored"]))
