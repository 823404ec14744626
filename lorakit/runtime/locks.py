"""One run at a time over one output."""

import json
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lorakit.errors import RefusedError, StorageError
from lorakit.runtime import platform

_NAME = re.compile(r"\.lock(\.\d+)?(\.lorakit)?")
_MARK, _MARKER, _MOST = b'{"lorakit": "lock"', ".lorakit", 512
_POLL = 0.2  # seconds between two tries to take a marker


@contextmanager
def held(folder: Path, name: str = ".lock", *, wait: bool = False, dry_run: bool = False) -> Iterator[None]:
    """Hold `folder`/`name` for this process; where another holds it, RefusedError, or with `wait` until it is free.

    While it is held the file says by whom. A file of that name that somebody else has written is locked and left as it
    is. The kernel frees the lock at any death of the process. Where the system or the file system has no locks, a file
    `name`.lorakit stands for one: a later run of the same machine sees that its owner has died, and takes it over. A
    dry run only looks whether the lock is free, and makes no file.
    """
    file = folder / name
    if dry_run:
        _check_free(folder, file)
        yield
        return
    fd = _opened(file)
    with os.fdopen(fd, "r+b", buffering=0):
        try:
            locked = _locked(folder, fd, wait)
        except OSError as error:
            raise StorageError(f"{file} cannot be locked: {error.strerror or error}") from error
        with _signed(fd) if locked else _marked(folder, file, fd, wait):
            yield


def _check_free(folder: Path, file: Path) -> None:
    """RefusedError where another process holds the lock; without a lock file none does."""
    try:
        fd = os.open(file, os.O_RDWR | platform.NO_LINK | platform.NO_WAIT | platform.BINARY)
    except OSError:
        return
    with os.fdopen(fd, "r+b", buffering=0), suppress(OSError):
        _locked(folder, fd, wait=False)


def _locked(folder: Path, fd: int, wait: bool) -> bool:
    """As `platform.lock`; RefusedError, which says who it is, where another process holds the lock of `folder`."""
    try:
        return platform.lock(fd, wait=wait)
    except BlockingIOError:
        raise RefusedError(f"{_at_work(folder, fd)}; wait for it or choose another output") from None


def is_lock(path: Path) -> bool:
    """Whether a file is a lock that `held` made or may use: of such a name, and with nothing of somebody else's in it."""
    if not _NAME.fullmatch(path.name):
        return False
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        with path.open("rb") as file:
            said = file.read(_MOST)
    except OSError:
        return False
    return not said or said.startswith(_MARK) or path.suffix == _MARKER


def forget(folder: Path, name: str) -> None:
    """Remove a lock file that nobody holds any more, unless somebody else has written something there."""
    with suppress(OSError):
        if is_lock(folder / name):
            (folder / name).unlink()


def _opened(file: Path) -> int:
    """A descriptor of the lock file, which is made where it is missing; a link, folder or pipe is none."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | platform.NO_LINK | platform.NO_WAIT | platform.BINARY
        fd = os.open(file, flags, 0o666)
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror or error}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise StorageError(f"{file} cannot be written: it is not a file")
    return fd


@contextmanager
def _signed(fd: int) -> Iterator[None]:
    """While it is open the lock file says who holds it, unless somebody else has written something there."""
    said = _said(fd)
    if said and not said.startswith(_MARK):
        yield
        return
    who = {
        "lorakit": "lock",
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M"),
    }
    with suppress(OSError):  # a full disk holds a lock as well
        os.ftruncate(fd, 0)
        platform.write_at(fd, memoryview(json.dumps(who).encode()), 0)
    try:
        yield
    finally:
        with suppress(OSError):
            os.ftruncate(fd, 0)


@contextmanager
def _marked(folder: Path, file: Path, fd: int, wait: bool) -> Iterator[None]:
    """Hold a marker beside the lock file, for systems without locks."""
    from filelock import SoftFileLock, Timeout

    marker = file.with_name(f"{file.name}{_MARKER}")
    lock = SoftFileLock(marker, timeout=-1 if wait else 0, poll_interval=_POLL)
    try:
        lock.acquire()
    except Timeout:
        raise RefusedError(
            f"{_at_work(folder, fd)}; wait for it, or choose another output. This disk has no locks: if that process ran on "
            f"another machine and is gone, delete {marker}"
        ) from None
    except OSError as error:
        raise StorageError(f"{marker} cannot be written: {error.strerror or error}") from error
    try:
        with _signed(fd):
            yield
    finally:
        lock.release()


def _said(fd: int) -> bytes:
    said = bytearray(_MOST)
    return bytes(said[: platform.read_at(fd, memoryview(said), 0)])


def _at_work(folder: Path, fd: int) -> str:
    """That another run is at work in `folder`, and which, where the lock file says so."""
    who = ""
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads(_said(fd))
        who = f" (process {told['pid']} on {told['host']}, since {told['since']})"
    return f"another lorakit run is at work in {folder}{who}"
