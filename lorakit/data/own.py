"""Which pictures of a folder lorakit wrote itself: what it drew is no photograph, and its sheets and plots are none either."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lorakit.io.record import RECORD, Record

MANIFEST = ".manifest.jsonl"  # in a training set of ppim's
CONTACT_SHEET = "contact-sheet.png"  # beside it
DRAWN, SHEET = "drawn", "sheet"
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS = 64  # before the pixels
_TEXTS = {b"iTXt": (b"lorakit\0", DRAWN), b"tEXt": (b"Software\0lorakit", SHEET)}  # by kind of chunk: how it begins


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

    def kind(self, path: str) -> str:
        """DRAWN for what lorakit drew, SHEET for what it wrote to be looked at (a grid, a film, a plot, a contact sheet), ""
        for any other picture."""
        above, _, name = path.rpartition("/")
        if name == CONTACT_SHEET and MANIFEST in self.hidden.get(above, ()):
            return SHEET
        return said(self.folder / path) or (SHEET if self.wrote(path) else "")


def _above(path: str) -> list[str]:
    """The folders that a path lies in, the innermost first and the whole folder, "", last."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]


def said(file: Path) -> str:
    """DRAWN for a PNG that says with which settings lorakit drew it, as class pictures, previews and samples do; SHEET for
    one that says that it is a drawing to be looked at; else "". Decodes nothing."""
    if file.suffix.lower() != ".png":
        return ""
    with suppress(OSError), file.open("rb") as opened:
        if opened.read(len(_PNG)) != _PNG:
            return ""
        for _ in range(_MOST_CHUNKS):
            head = opened.read(8)
            if len(head) < 8 or head[4:] == b"IDAT":
                return ""
            end = opened.tell() + int.from_bytes(head[:4], "big") + 4
            if (text := _TEXTS.get(head[4:])) is not None and opened.read(len(text[0])) == text[0]:
                return text[1]
            opened.seek(end)
    return ""
