"""A picture file and what belongs to it."""

import re
from dataclasses import dataclass
from typing import NamedTuple

from lorakit.data.tables import TableRow

_KOHYA = re.compile(r"^(\d+)_(.+)$")


class Number(NamedTuple):
    """A folder's name read as kohya's trainers do: NUMBER_NAME."""

    folder: str
    times: int
    words: str


def number_of(path: str) -> Number | None:
    """Of the nearest folder that is so named, of those that a path below a set lies in."""
    for part in reversed(path.split("/")[:-1]):
        if match := _KOHYA.match(part):
            return Number(part, int(match[1][:12]), match[2].strip())
    return None


@dataclass(frozen=True, kw_only=True)
class PictureFile:
    """A picture file and what belongs to it, as paths below the folder.

    problem     why it is not even opened
    outside     a link leads to it out of the folder
    captions    the caption files beside it
    masks       the masks beside it; more than one must be the same picture
    row         what a table says of it
    number      the nearest folder above it that is named NUMBER_NAME
    """

    path: str
    problem: str = ""
    outside: bool = False
    captions: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    row: TableRow | None = None
    number: Number | None = None
