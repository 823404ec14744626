"""Figures of how a drawn picture looks: sharpness, exposure, contrast."""

import numpy as np
from PIL import Image


def figures(picture: Image.Image) -> dict[str, float]:
    """Of the grey picture.

    sharpness    variance of the Laplacian: below about 20 most people call a photograph blurred
    brightness   mean, 0..255
    contrast     standard deviation
    dark, bright shares of pixels that are all but black (below 8) or white (above 247)
    """
    grey = np.asarray(picture.convert("L"), dtype=np.float32)
    edges = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return {
        "sharpness": round(float(edges.var()), 2) if edges.size else 0.0,
        "brightness": round(float(grey.mean()), 1),
        "contrast": round(float(grey.std()), 1),
        "dark": round(float((grey < 8).mean()), 4),
        "bright": round(float((grey > 247).mean()), 4),
    }


def remarks(quality: dict[str, float]) -> list[str]:
    """What a trainer should know of a picture with these figures, in words."""
    found = []
    if quality["contrast"] < 2:
        found.append("one plain colour")
    elif quality["brightness"] < 30 or quality["dark"] > 0.6:
        found.append("very dark")
    elif quality["dark"] + quality["bright"] > 0.5 and quality["brightness"] > 200 and quality["contrast"] < 25:
        found.append("washed out")
    return found
