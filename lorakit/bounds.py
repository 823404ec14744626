"""What a drawing may be asked for, whoever asks: options, lines of prompts, axes of a grid, and the texts in PNGs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorakit.errors import UsageError, some

MOST_PICTURES = 100_000  # into one folder: their names have five digits
MOST_PROMPT = 10_000  # characters
MOST_SIDE = 16384  # pixels


@dataclass(frozen=True)
class Bound:
    """A kind of number (int or float), its least and its greatest value."""

    kind: type
    least: float
    most: float

    def check(self, value: Any) -> Any:
        """`value`; ValueError where it is no number of this kind or out of bounds. Whole numbers are floats too."""
        is_number = isinstance(value, int if self.kind is int else int | float) and not isinstance(value, bool)
        if not is_number or not self.least <= value <= self.most:
            what = "a whole number" if self.kind is int else "a number"
            raise ValueError(f"expected {what} from {self.least} to {self.most}")
        return value


DRAWING = {
    "count": Bound(int, 1, MOST_PICTURES),
    "seed": Bound(int, 0, (1 << 63) - 1),
    "steps": Bound(int, 1, 1000),  # as many as models have been trained with
    "guidance": Bound(float, 0, 1000),
    "guidance_until": Bound(float, 0, 1),
    "rescale": Bound(float, 0, 1),
    "clip_skip": Bound(int, 1, 100),
    "strength": Bound(float, 0, 1),
    "hires": Bound(float, 1, 16),
    "hires_strength": Bound(float, 0, 1),
}
_OPTIONS = {"rescale": "guidance_rescale"}


def check_drawing(values: Mapping[str, Any]) -> None:
    """UsageError that names every option whose value is out of bounds."""
    wrong = []
    for name, value in values.items():
        try:
            DRAWING[name].check(value)
        except ValueError as error:
            wrong.append(f"--{_OPTIONS.get(name, name).replace('_', '-')} {value}: {error}")
    if wrong:
        raise UsageError(some(wrong, 3, "\n"))


def check_prompt(text: Any) -> str:
    """`text`; ValueError where it is no text or too long to be a prompt."""
    if not isinstance(text, str):
        raise ValueError("expected text")
    if len(text) > MOST_PROMPT:
        raise ValueError(f"{len(text):,} characters; a prompt has at most {MOST_PROMPT:,}")
    return text


def size_of(text: str) -> tuple[int, int]:
    """`512` or `640x512` (width x height) as (width, height); ValueError for anything else."""
    match = re.fullmatch(r"([0-9]{1,9})(?:[xX]([0-9]{1,9}))?", text)
    if match is None:
        raise ValueError("expected N or WxH, such as 512 or 640x512")
    return check_size((int(match[1]), int(match[2] or match[1])))


def check_size(size: Any) -> tuple[int, int]:
    """(width, height); ValueError where it is no pair of sides within bounds."""
    sides = Bound(int, 1, MOST_SIDE)
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise ValueError("expected a width and a height")
    try:
        return sides.check(size[0]), sides.check(size[1])
    except ValueError:
        raise ValueError(f"expected sides from 1 to {MOST_SIDE} pixels") from None


def check_count(pictures: int) -> None:
    """UsageError for more pictures than one folder takes."""
    if pictures > MOST_PICTURES:
        raise UsageError(f"{pictures:,} pictures are asked for; at most {MOST_PICTURES:,} go into one folder")
