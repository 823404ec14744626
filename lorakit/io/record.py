"""What lorakit wrote into a folder, so that nothing that a person made or changed is ever replaced or removed.

The record is `.lorakit.jsonl` in the folder: one line a file, added before the file appears, so that a process killed at
any moment leaves no file that is not listed. A line holds the file's name below the folder, its size and a fingerprint
of its content; a file is lorakit's where one of its lines fits. A copied folder is still known, an edited file is not.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from lorakit.errors import RefusedError
from lorakit.runtime import platform
from lorakit.runtime.locks import is_lock

RECORD = ".lorakit.jsonl"
TEMPORARY = re.compile(r"\.(.+)\.(\d+)-[0-9a-f]{8}\.(partial|whole|old)", re.DOTALL)
_HEAD = {"lorakit": "record of the files that lorakit wrote here", "version": 1}
_WHOLE = 16 << 20  # bytes up to which a file is read whole for its fingerprint
_BLOCK, _EVERY = 4 << 10, 1 << 20  # of larger ones this much of each so many bytes
_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # what file managers leave by themselves
_MOST = 1 << 28  # bytes of a record that are read


Known = Callable[[str, bool], bool]


def _unknown(name: str, listed: bool) -> bool:
    return False


def fingerprint(path: Path) -> str:
    """A hash of a file's size and content, hex. Of files above 16 MiB it takes 4 KiB of every MiB and the last ones, so
    that it costs next to nothing and sees any change of a MiB in a row."""
    with path.open("rb", 0) as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256()
        if size <= _WHOLE:
            while piece := file.read(1 << 20):
                digest.update(piece)
        else:
            digest.update(f"{size}\0".encode())
            for at in (*range(0, size, _EVERY), size - _BLOCK):
                file.seek(at)
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


class Record:
    """The record of a folder. It is read when it is first asked, and made with the first line.

    known   whether a file that no line fits is lorakit's by something else: given its name, and whether there are lines
            of that name
    """

    def __init__(self, folder: Path, known: Known = _unknown) -> None:
        self.shown, self.folder = folder, Path(os.path.realpath(folder))
        self._known, self._given = known, os.path.abspath(folder)
        self._file = self.folder / RECORD
        self._lines: dict[str, set[tuple[int, str]]] = {}
        self._growing: set[str] = set()
        self._at, self._handle = 0, -1

    def name_of(self, target: Path) -> str | None:
        """The name of a file below the folder, with slashes; None for one that lies elsewhere."""
        path = os.path.abspath(target)
        for home in (self._given, str(self.folder)):
            if path.startswith(os.path.join(home, "")):
                return path[len(os.path.join(home, "")) :].replace(os.sep, "/")
        return None

    def add(self, name: str, content: Path) -> None:
        """List a file by what `content`, which is about to get its name, holds."""
        self._append({"file": name, "size": content.stat().st_size, "print": fingerprint(content)})

    def grows(self, name: str) -> None:
        """List a file that is added to: it is lorakit's whatever it holds, until it is listed by its content."""
        self._read()
        if name not in self._growing:
            self._append({"file": name, "grows": True})

    def ours(self, name: str) -> bool:
        """Whether the file of this name is one that lorakit wrote, as it wrote it. Links never are."""
        path = self.folder / name
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                return False
            self._read()
            if name in self._growing:
                return True
            lines = self._lines.get(name, ())
            if any(size == status.st_size for size, _ in lines) and (status.st_size, fingerprint(path)) in lines:
                return True
            return self._known(name, bool(lines))
        except OSError:
            return False

    def check(self, names: Iterable[str]) -> None:
        """RefusedError for the first of these names under which something stands that lorakit did not write."""
        if self._foreign():
            raise self._refusal(RECORD)
        for name in names:
            parts = name.split("/")
            for depth in range(1, len(parts)):
                above = "/".join(parts[:depth])
                if os.path.islink(self.folder / above) or os.path.isfile(self.folder / above):
                    raise self._refusal(above)
            if os.path.lexists(self.folder / name) and not self.ours(name):
                raise self._refusal(name)

    def sync(self) -> None:
        if self._handle >= 0:
            platform.sync(self._handle)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def remove(self) -> None:
        """Remove the record itself: nothing that it lists is there any more, or another list has it."""
        self.close()
        if not self._foreign():
            self._file.unlink(missing_ok=True)
        self._lines, self._growing, self._at = {}, set(), 0

    def _refusal(self, name: str) -> RefusedError:
        what = (
            "is a link, which this command did not make"
            if os.path.islink(self.folder / name)
            else ("was not written by this command, or was changed since")
        )
        return RefusedError(f"{self.shown / name} {what}; it stays as it is: move it away or choose another output")

    def _foreign(self) -> bool:
        """Whether something that is no record stands under the record's name."""
        try:
            status = self._file.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST:
                return True
            with self._file.open("rb") as file:
                head = file.readline(1 << 12)
            return bool(head) and _entry(head).get("lorakit") != _HEAD["lorakit"]
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def _read(self) -> None:
        """Take in what this process or another has added."""
        with suppress(OSError):
            if os.path.getsize(self._file) <= self._at or self._foreign():
                return
            with self._file.open("rb") as file:
                file.seek(self._at)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._at += len(line)
                    self._take(_entry(line))

    def _take(self, entry: dict[str, Any]) -> None:
        match entry:
            case {"file": str(name), "size": int(size), "print": str(found)}:
                self._lines.setdefault(name, set()).add((size, found))
                self._growing.discard(name)
            case {"file": str(name), "grows": True}:
                self._growing.add(name)

    def _append(self, entry: dict[str, Any]) -> None:
        if self._foreign():
            raise self._refusal(RECORD)
        if self._handle < 0:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | platform.NO_LINK | platform.BINARY
            self._handle = os.open(self._file, flags, 0o666)
        size = os.fstat(self._handle).st_size
        before = _line(_HEAD) if not size else b""
        if size and self._last_byte(size) != b"\n":
            before = b"\n"  # of a line that was cut off
        platform.append(self._handle, before + _line(entry))
        self._take(entry)

    def _last_byte(self, size: int) -> bytes:
        os.lseek(self._handle, size - 1, os.SEEK_SET)
        return os.read(self._handle, 1)


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"  # escaped: a name may be of any bytes


def _entry(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


_OPEN: list[Record] = []


@contextmanager
def recorded(folder: Path, known: Known = _unknown) -> Iterator[Record]:
    """While it is open, what this process writes below the folder is listed there, and what it did not write stays.

    known   as a Record takes it
    """
    record = Record(folder, known)
    _OPEN.append(record)
    try:
        yield record
    finally:
        _OPEN.remove(record)
        record.close()


def record_of(target: Path) -> tuple[Record, str] | None:
    """The innermost folder with an open record that holds `target`, and its name there."""
    for record in reversed(_OPEN):
        if (name := record.name_of(target)) is not None:
            return record, name
    return None


class What(Enum):
    """What stands in a folder.

    OURS        a file that lorakit wrote, as it wrote it, or what a process of it left that was killed
    STRANGER    anything else that holds something
    LITTER      a file that a file manager left by itself
    EMPTY       a folder with nothing in it
    IN_USE      a lock, or a temporary file of another process
    """

    OURS = "ours"
    STRANGER = "stranger"
    LITTER = "litter"
    EMPTY = "empty"
    IN_USE = "in use"


class Entry(NamedTuple):
    name: str
    what: What


Lists = Callable[[Path], Known | None]


def survey(folder: Path, lists: Lists = lambda folder: None) -> Iterator[Entry]:
    """All that stands below a folder but its records and its folders that hold something, in the order of names.

    A file is lorakit's where a record lists it: the one in its own folder, or one above it, up to `folder`. Links are not
    followed.

    lists   gives what a Record of a folder takes as `known`
    """
    yield from _below(folder, "", [], lists)


def _below(folder: Path, prefix: str, above: list[tuple[Record, int]], lists: Lists) -> Iterator[Entry]:
    records = [*above, (Record(folder, lists(folder) or _unknown), len(prefix))]
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        yield Entry(prefix.removesuffix("/") or ".", What.STRANGER)
        return
    if not entries and prefix:
        yield Entry(prefix.removesuffix("/"), What.EMPTY)
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if (match := TEMPORARY.fullmatch(entry.name)) and match[3] == "partial" and not entry.is_symlink():
            yield Entry(name, What.OURS if left_over(Path(entry.path)) else What.IN_USE)
        elif entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path), f"{name}/", records, lists)
        elif entry.name == RECORD and not records[-1][0]._foreign():
            continue
        elif is_lock(Path(entry.path)):
            yield Entry(name, What.IN_USE)
        elif any(record.ours(name[start:]) for record, start in records):
            yield Entry(name, What.OURS)
        elif entry.name in _LITTER and entry.is_file(follow_symlinks=False):
            yield Entry(name, What.LITTER)
        else:
            yield Entry(name, What.STRANGER)


def left_over(path: Path) -> bool:
    """Whether a temporary file or folder is of a process that was killed. Where that cannot be told, it is not.

    A process of another container has a number that means nothing here, so it counts as well whether the file is held.
    """
    match = TEMPORARY.fullmatch(path.name)
    if match is None or platform.alive(int(match[2])):
        return False
    if sys.platform == "win32":  # holds no locks, and has no containers that share a disk
        return True
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return platform.lock(handle, wait=False)
    except OSError:
        return False
    finally:
        os.close(handle)


def write_record(folder: Path) -> None:
    """List all files that are below a folder, as they are. The same files give the same bytes."""
    lines = [_line(_HEAD)]
    for name in sorted(found.name for found in survey(folder) if found.what is not What.EMPTY):
        path = folder / name
        lines.append(_line({"file": name, "size": path.stat().st_size, "print": fingerprint(path)}))
    (folder / RECORD).write_bytes(b"".join(lines))


def stranger_in(folder: Path, lists: Lists = lambda folder: None) -> str | None:
    """The name of the first thing in a folder that lorakit did not write; None where there is none."""
    return next((found.name for found in survey(folder, lists) if found.what is What.STRANGER), None)


def clear(folder: Path, lists: Lists = lambda folder: None) -> None:
    """Remove what lorakit wrote below a folder, its records, and the folders that are empty then. All else stays."""
    parents = {folder}
    for found in list(survey(folder, lists)):
        path = folder / found.name
        parents |= {above for above in path.parents if folder in above.parents}
        if found.what is What.OURS:
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    deepest_first = sorted(parents, key=lambda path: -len(path.parts))
    for inner in deepest_first:
        Record(inner).remove()  # after the files: killed before, the next run finds the rest to be lorakit's
    for inner in deepest_first[:-1]:
        with suppress(OSError):
            inner.rmdir()
