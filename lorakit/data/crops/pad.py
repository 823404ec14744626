"""The whole picture, on plain borders."""

from lorakit.data.crops import Placed, View
from lorakit.data.images import Cut


def place(view: View) -> Placed:
    return Placed(Cut(box=(0, 0, *view.source), size=view.target, pad=True))
