"""Masks, one module each: which part of a picture training shall look at.

A mask defines `load(how) -> make`, where `make(pictures) -> masks` gives one grey picture of the same size each, white
where the subject is; and `identity(how)`, what a mask depends on besides its picture.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

Make = Callable[[Sequence[Image.Image]], list[Image.Image]]


@dataclass(frozen=True)
class MaskSettings:
    """What masks may be told: words for the subject, a model's name or folder, where to compute."""

    prompt: str = ""
    model: str = ""
    device: str = "auto"
    dtype: str = "auto"

    @property
    def by_words(self) -> bool:
        """Is the subject told by words, to a model?"""
        return bool(self.prompt or self.model)
