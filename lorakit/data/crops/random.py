"""The largest part of the right shape, anywhere; the same file is always cut at the same place."""

import random

from lorakit.data.crops import Placed, View
from lorakit.data.images import Cut, largest


def place(view: View) -> Placed:
    w, h = largest(view.source, view.target)
    draw = random.Random(f"{view.seed}/crop")
    left, top = draw.randint(0, view.source[0] - w), draw.randint(0, view.source[1] - h)
    return Placed(Cut(box=(left, top, left + w, top + h), size=view.target))
