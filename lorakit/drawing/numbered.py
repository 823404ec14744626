"""A folder of pictures that number on: each run's pictures come after the highest that is there."""

import os
import re
from pathlib import Path

from lorakit.io.files import NameTaken, remove, write_bytes

# 00004.png and what belongs to it: 00004.steps.png, and grid-00004.png of a grid whose first picture it is; the grid of
# 00000 is plain grid.png. Longer numbers are dates or the like.
_NAME = re.compile(r"(?:grid-)?(\d{5,6})\.|(grid)\.")


def number_of(name: str) -> int | None:
    """The number of the picture that a file is, or belongs to; None for other files."""
    match = _NAME.match(name)
    return None if match is None else int(match[1] or 0)


def sheet_name(first: int) -> str:
    """The stem of the sheet of a grid whose first picture has this number."""
    return f"grid-{first:05d}" if first else "grid"


class Numbered:
    """Pictures of one run in a folder that other runs may draw into at the same time.

    anew    begin at 00000 and replace what lorakit drew there, else number on and replace nothing
    """

    def __init__(self, folder: Path, *, anew: bool) -> None:
        self.folder, self.anew = folder, anew
        self._next: int | None = 0 if anew else None

    def put(self, data: bytes) -> int:
        """Write a picture's bytes under the next number, which it gives. RefusedError where `anew` would replace what
        lorakit did not write."""
        while True:
            number = self._next if self._next is not None else self._highest() + 1
            self._next = number + 1
            if self.anew:
                self._clear(number)
            try:
                write_bytes(self.file(number), data, new=not self.anew)
            except NameTaken:  # by another run, since it was looked
                continue
            return number

    def put_beside(self, name: str, data: bytes) -> Path:
        """Write what belongs to a picture of this run, whose number is in the name."""
        write_bytes(self.folder / name, data, new=not self.anew)
        return self.folder / name

    def file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.png"

    def _names(self) -> list[str]:
        return os.listdir(self.folder) if self.folder.is_dir() else []

    def _highest(self) -> int:
        return max((number for name in self._names() if (number := number_of(name)) is not None), default=-1)

    def _clear(self, number: int) -> None:
        """Strips, films and sheets of the picture that is replaced would be taken for the new one's."""
        for name in self._names():
            if number_of(name) == number and self.folder / name != self.file(number):
                remove(self.folder / name)
