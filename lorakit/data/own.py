"""Which pictures of a folder lorakit wrote itself: what it drew is no photograph, and its sheets and plots are none either."""

from collections.abc import Mapping
from pathlib import Path

from lorakit.io.record import RECORD, Record

MANIFEST = ".manifest.jsonl"  # in a training set of ppim's
SHEET = "contact-sheet.png"  # beside it
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS = 64


class Own:
    """Tells of files below a folder whether lorakit wrote them.

    hidden  the hidden names of each folder, by its path below
    """

    def __init__(self, folder: Path, hidden: Mapping[str, frozenset[str]]) -> None:
        self.folder, self.hidden = folder, hidden
        self.records = {path: Record(folder / path) for path, names in hidden.items() if RECORD in names}

    def wrote(self, path: str) -> bool:
        """Whether a record lists the file as it is: the one in its own folder, or one above it."""
        for above in _above(path):
            if above in self.records and self.records[above].ours(path[len(above) :].lstrip("/")):
                return True
        return False

    def is_sheet(self, path: str) -> bool:
        """Whether a picture was written to be looked at: a grid, a film, a plot, a contact sheet."""
        above, _, name = path.rpartition("/")
        if name == SHEET and MANIFEST in self.hidden.get(above, ()):
            return True
        return not drawn(self.folder / path) and (_says(self.folder / path, _DRAFTED) or self.wrote(path))


def _above(path: str) -> list[str]:
    """The folders that a path lies in, the innermost first and the whole folder, "", last."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]


_DRAWN, _DRAFTED = (b"iTXt", b"lorakit\0"), (b"tEXt", b"Software\0lorakit")


def drawn(file: Path) -> bool:
    """Whether a PNG says with which settings lorakit drew it: class pictures, previews and samples do."""
    return _says(file, _DRAWN)


def _says(file: Path, text: tuple[bytes, bytes]) -> bool:
    """Whether a text of this kind and beginning stands before the pixels of a PNG. Decodes nothing."""
    kind, beginning = text
    try:
        with file.open("rb") as opened:
            if opened.read(len(_PNG)) != _PNG:
                return False
            for _ in range(_MOST_CHUNKS):
                head = opened.read(8)
                if len(head) < 8 or head[4:] == b"IDAT":
                    return False
                end = opened.tell() + int.from_bytes(head[:4], "big") + 4
                if head[4:] == kind and opened.read(len(beginning)) == beginning:
                    return True
                opened.seek(end)
    except OSError:
        return False
    return False
