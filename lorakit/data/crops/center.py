"""The middle of the picture."""

from lorakit.data.crops import Placed, View
from lorakit.data.images import centre


def place(view: View) -> Placed:
    return Placed(centre(view.source, view.target))
