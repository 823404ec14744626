"""Ways of cutting a picture to size, one module each.

A crop defines `place(view) -> Placed`: which part of the picture is drawn, and in words why. `target(source, size,
multiple)`, where it has one, says at which size a picture is drawn; else it is the size asked for. What is random is
drawn from `view.seed`, which is made of the file's bytes alone.
"""

from dataclasses import dataclass

from PIL import Image

from lorakit.data.images import Crop


@dataclass(frozen=True)
class PictureView:
    """A picture to be cut: perhaps decoded smaller than it is.

    image    RGB, upright
    source   its full size (width, height), in which boxes count
    target   the size it is drawn at
    seed     made of the file's bytes and --seed
    """

    image: Image.Image
    source: tuple[int, int]
    target: tuple[int, int]
    seed: str


@dataclass(frozen=True)
class PlacedCrop:
    """The cut, why it lies there ("" where that needs no words), and figures for the report."""

    cut: Crop
    why: str = ""
    figures: dict[str, float] | None = None
