"""What lies in a folder of raw pictures: those to read, those to name and pass by, and the files between them."""

import errno
import os
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lorakit.data.images import SUFFIXES

# Pictures that are not read: each is named, so that nobody wonders where it went.
OTHERS = {
    ".jxl": "JPEG XL",
    ".jp2": "JPEG 2000",
    ".svg": "SVG",
    ".psd": "Photoshop",
    ".eps": "EPS",
    ".ps": "PostScript",
    ".pdf": "PDF",
    ".dng": "DNG",
    ".cr2": "CR2",
    ".cr3": "CR3",
    ".nef": "NEF",
    ".arw": "ARW",
    ".orf": "ORF",
    ".rw2": "RW2",
    ".raf": "RAF",
    ".tga": "TGA",
    ".exr": "EXR",
    ".ppm": "PPM",
    ".ico": "ICO",
}


class FoundPicture(NamedTuple):
    """A picture file below the folder; `problem` says why it is not even opened, `outside` that a link led out to it."""

    path: str
    problem: str = ""
    outside: bool = False


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What stands in one folder.

    path        of the folder below the one that is walked, "" for itself
    pictures    the picture files in it
    files       the names of all else in it that is not hidden
    hidden      the hidden names
    problem     why it cannot be read
    place       what the caller calls it, or one above it: see `folders`
    """

    path: str
    pictures: list[FoundPicture] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    hidden: frozenset[str] = frozenset()
    problem: str = ""
    place: str = ""

    def below(self, name: str) -> str:
        """The path of a name in it."""
        return f"{self.path}/{name}" if self.path else name


def suffix_of(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _trouble(entry: os.DirEntry[str], suffix: str) -> str:
    try:
        if entry.is_dir():
            return "a folder"
        if not os.path.exists(entry.path):
            return "a link that leads nowhere"
        if not entry.is_file():
            return "a pipe, socket or device, not a file"
    except OSError as error:
        return f"{error.strerror}" if error.errno != errno.ELOOP else "a link that leads to itself"
    return f"{OTHERS[suffix]} is not read; convert it to PNG or JPEG" if suffix in OTHERS else ""


def _identity(folder: Path) -> object:
    """What is the same for one folder, whichever links lead to it; some disks on Windows number no folders."""
    status = os.stat(folder)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)


def folders(folder: Path, places: Mapping[Path, str] | None = None) -> Iterator[Listed]:
    """`folder` and those below it, in no order, paths relative to it and with `/`; hidden ones are left out.

    Linked folders are followed, each real folder once, so that a loop of links ends; what lies in `folder` itself comes
    before what links lead to.

    places  folders below it by what the caller calls them, which is told of them and of all below them
    """
    known = {_identity(place): name for place, name in (places or {}).items() if place.is_dir()}
    seen: set[object] = set()
    home = os.path.join(os.path.realpath(folder), "")

    def leads_out(entry: os.DirEntry[str]) -> bool:
        return entry.is_symlink() and not os.path.join(os.path.realpath(entry.path), "").startswith(home)

    waiting = deque([("", False, "")])  # links at its left, which are taken last
    while waiting:
        below, linked, place = waiting.pop()
        try:
            with os.scandir(folder / below) as entries:
                if (identity := _identity(folder / below)) in seen:
                    continue
                seen.add(identity)
                found = sorted(entries, key=lambda e: e.name)
        except OSError as error:
            yield Listed(path=below, problem=f"the folder cannot be read: {error.strerror}", place=place)
            continue
        hidden = frozenset(entry.name for entry in found if entry.name.startswith("."))
        listed = Listed(path=below, hidden=hidden, place=known.get(identity, place) if below else "")
        for entry in found:
            if entry.name in hidden:
                continue
            path, suffix = listed.below(entry.name), suffix_of(entry.name)
            trouble, outside = _trouble(entry, suffix), linked or leads_out(entry)
            if suffix in SUFFIXES or (suffix in OTHERS and trouble != "a folder"):
                listed.pictures.append(FoundPicture(path, trouble, outside))
            else:
                listed.files.append(entry.name)
            if trouble == "a folder":
                (waiting.appendleft if entry.is_symlink() else waiting.append)((path, outside, listed.place))
        yield listed


def walk(folder: Path, without: Path | None = None) -> Iterator[FoundPicture]:
    """Pictures below `folder`, in no order, and the folders that cannot be read; those of the folder `without` are left
    out."""
    for listed in folders(folder, {} if without is None else {without: "left out"}):
        if listed.problem:
            yield FoundPicture(listed.path or ".", listed.problem)
        if not listed.place:
            yield from listed.pictures


def find(folder: Path) -> list[Path]:
    """Picture files below `folder` in sorted order, as `walk` finds them; kinds that are not read are left out."""
    return sorted(folder / found.path for found in walk(folder) if suffix_of(found.path) in SUFFIXES)
