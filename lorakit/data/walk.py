"""What lies in a folder of raw pictures: those to read, and those to name and pass by."""

import errno
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lorakit.data.images import SUFFIXES

# Pictures that are not read: each is named, so that nobody wonders where it went.
_OTHERS = {
    ".jxl": "JPEG XL", ".jp2": "JPEG 2000", ".svg": "SVG",
    ".psd": "Photoshop", ".eps": "EPS", ".ps": "PostScript", ".pdf": "PDF", ".dng": "DNG", ".cr2": "CR2", ".cr3": "CR3",
    ".nef": "NEF", ".arw": "ARW", ".orf": "ORF", ".rw2": "RW2", ".raf": "RAF", ".tga": "TGA", ".exr": "EXR",
    ".ppm": "PPM", ".ico": "ICO",
}  # fmt: skip


class Found(NamedTuple):
    """A picture file below the folder; `problem` says why it is not even opened, `outside` that a link led out to it."""

    path: str
    problem: str = ""
    outside: bool = False


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
    return f"{_OTHERS[suffix]} is not read; convert it to PNG or JPEG" if suffix in _OTHERS else ""


def _identity(folder: Path) -> object:
    """What is the same for one folder, whichever links lead to it; some disks on Windows number no folders."""
    status = os.stat(folder)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)


def walk(folder: Path, without: Path | None = None) -> Iterator[Found]:
    """Pictures below `folder`, paths relative to it and with `/`, in no order; hidden names and the folder `without` are left out.

    Linked folders are followed, each real folder once, so that a loop of links ends; what lies in `folder` itself comes
    before what links lead to.
    """
    seen: set[object] = set()
    if without is not None and without.exists():
        seen.add(_identity(without))
    home = os.path.join(os.path.realpath(folder), "")

    def leads_out(entry: os.DirEntry[str]) -> bool:
        return entry.is_symlink() and not os.path.join(os.path.realpath(entry.path), "").startswith(home)

    waiting = deque([("", False)])  # links at its left, which are taken last
    while waiting:
        below, linked = waiting.pop()
        try:
            with os.scandir(folder / below) as entries:
                if (identity := _identity(folder / below)) in seen:
                    continue
                seen.add(identity)
                found = sorted(entries, key=lambda e: e.name)
        except OSError as error:
            yield Found(below or ".", f"the folder cannot be read: {error.strerror}")
            continue
        for entry in found:
            if entry.name.startswith("."):
                continue
            path = f"{below}/{entry.name}" if below else entry.name
            suffix = os.path.splitext(entry.name)[1].lower()
            trouble, outside = _trouble(entry, suffix), linked or leads_out(entry)
            if suffix in SUFFIXES or (suffix in _OTHERS and trouble != "a folder"):
                yield Found(path, trouble, outside)
            if trouble == "a folder":
                (waiting.appendleft if entry.is_symlink() else waiting.append)((path, outside))
