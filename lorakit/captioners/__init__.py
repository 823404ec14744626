"""Captioners, one module each.

A captioner defines `load(how) -> captions`, where `captions(shown) -> list[Text]` says one caption a picture, in order;
what it loads is imported there. `LIGHT = True` says that a caption costs next to nothing and may depend on more than the
picture: it is made anew in every run. Others are made once for a picture; `identity(how)` says what they depend on, and
`name_of(how)` which model they ask.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorakit.data.caption_files import BadCaption, Caption

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["BadCaption", "Caption", "CaptionerSettings", "Captions", "Shown"]


@dataclass(frozen=True)
class Shown:
    """A picture: its source file, and what was prepared from it. Models look at the latter, which is known to be whole.

    beside  the caption files beside the source; None where they are yet to be looked for
    told    captions that a table or the name of its folder gives it
    """

    source: Path
    picture: Path
    beside: Sequence[Path] | None = None
    told: Sequence[str] = ()

    def opened(self) -> "Image":
        """What was prepared, in RGB."""
        from lorakit.data.images import as_written

        return as_written(self.picture)


@dataclass(frozen=True, kw_only=True)
class CaptionerSettings:
    """What captioners may be told. `model` is "" where none is named; `base` is the base model that is trained for."""

    model: str = ""
    base: str = "tiny"
    device: str = "auto"
    dtype: str = "auto"
    vocabulary: str = ""
    threshold: float = 0.35
    encoding: str = ""


Captions = Callable[[Sequence[Shown]], list[Caption]]
