"""Files and folders that are to be read: what stands at a path, refused in one sentence where it cannot serve."""

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from lorakit.errors import InputError, some
from lorakit.io.record import RECORD
from lorakit.naming import is_text
from lorakit.runtime import platform

_MOST_PARTS = 10_000


def sha256_of(path: Path) -> str:
    """Of a regular file; of a folder, of its files' names and contents, without lorakit's record of them. Hex. InputError
    for what is neither."""
    if not path.is_dir():
        with os.fdopen(open_to_read(path, "file"), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    parts = list(islice(path.rglob("*"), _MOST_PARTS + 1))
    if len(parts) > _MOST_PARTS:
        raise InputError(f"{path} holds more than {_MOST_PARTS:,} files; name a model's or an adapter's own folder")
    for part in sorted((part for part in parts if part.name != RECORD), key=lambda part: part.parts):
        digest.update(os.fsencode(f"{part.relative_to(path).as_posix()}\0"))
        if part.is_file():
            with part.open("rb") as file:
                while piece := file.read(1 << 22):
                    digest.update(piece)
    return digest.hexdigest()


def kind_of(path: str | Path) -> str:
    """What stands at a path, in words, links followed: "a file", "a folder", "a pipe" ..., or "" for nothing. OSError
    where that cannot be known."""
    try:
        mode = os.stat(path).st_mode
    except ValueError:  # no path has a zero byte in it
        return ""
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return ""
        raise
    kinds = {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


_PIPE_HINT = "save what comes through it as a file first"


def existing_file(path: str | Path, what: str) -> Path:
    """The path of a regular file. InputError for what is missing or is none, such as a pipe, which is not waited for."""
    file = Path(path)
    try:
        kind = kind_of(file)
    except OSError as error:
        raise InputError(f"{file}: {what} could not be read: {error.strerror or error}") from error
    if not kind:
        raise InputError(f"{file}: no such {what}")
    if kind != "a file":
        hint = f"; {_PIPE_HINT}" if kind == "a pipe" else ""
        raise InputError(f"{file} is not a file but {kind}; expected {what}{hint}")
    return file


def check_inputs(paths: Iterable[str | Path], what: str) -> None:
    """Refuse, before any work, files and folders that are to be read and cannot be: InputError that names all of them."""
    wrong: dict[str, list[str]] = {}
    for path in paths:
        try:
            kind = kind_of(path)
            if kind not in ("a file", "a folder"):
                hint = f" ({_PIPE_HINT})" if kind == "a pipe" else ""
                fault = f"neither a file nor a folder but {kind}{hint}" if kind else f"no such {what}"
            elif os.access(path, os.R_OK):
                continue
            else:
                fault = "no permission to read"
        except OSError as error:
            fault = f"{what} could not be read: {error.strerror or error}"
        wrong.setdefault(fault, []).append(str(path))
    if wrong:
        raise InputError("\n".join(f"{fault}: {some(names, 20)}" for fault, names in wrong.items()))


def check_plain(folder: Path, what: str) -> Path:
    """The folder, for libraries that open what lies in it: InputError where they would wait for a pipe or a device."""
    odd = [file for file in folder.rglob("*") if kind_of(file) not in ("a file", "a folder", "")]
    if odd:
        named = some([f"{file.relative_to(folder)} ({kind_of(file)})" for file in sorted(odd)], 5)
        raise InputError(f"{folder}: the {what} has what is no file in it: {named}")
    return folder


def open_to_read(path: str | Path, what: str) -> int:
    """A descriptor of a regular file, for the caller to close; a pipe is refused and not waited for."""
    file = existing_file(path, what)
    try:
        handle = os.open(file, os.O_RDONLY | platform.NO_WAIT | platform.BINARY)
    except OSError as error:
        raise InputError(f"{file}: {what} could not be read: {error.strerror or error}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):  # changed since it was looked at
        os.close(handle)
        raise InputError(f"{file} is not a file; expected {what}")
    return handle


@contextmanager
def utf8_path(folder: Path) -> Iterator[Path]:
    """A path that leads to `folder`, for libraries that take no other than UTF-8: a link, where its own is of other bytes."""
    if is_text(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as home:
        link = Path(home, "linked")
        link.symlink_to(folder.resolve(), target_is_directory=True)
        yield link


def existing_folder(path: str | Path, what: str) -> Path:
    folder = Path(path)
    if not folder.exists():
        raise InputError(f"{folder}: no such folder; expected {what}")
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; expected {what}")
    return folder
