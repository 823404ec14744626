"""Brightness, contrast and saturation changed by up to 10 %, as peers' jitter does."""

import random

from PIL import Image, ImageEnhance

_KINDS = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast, "saturation": ImageEnhance.Color}


def draw(chance: random.Random) -> dict[str, float]:
    return {name: round(chance.uniform(0.9, 1.1), 3) for name in _KINDS}


def pixels(picture: Image.Image, parameters: dict[str, float]) -> Image.Image:
    for name, kind in _KINDS.items():
        picture = kind(picture).enhance(parameters[name])
    return picture
