"""What Linux, macOS and Windows do differently, as functions that behave alike on all three.

Imports are light, since the command line imports this module before it knows whether there is any work to do.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

# The signals that ask a program to end. Windows has no SIGHUP, and raises SIGBREAK when its console window closes.
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))

BINARY = getattr(os, "O_BINARY", 0)  # without this flag of os.open Windows writes \r\n for \n
NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # with it os.open does not wait for the other end of a pipe
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # with it os.open refuses a link

_MOST = 1 << 30  # bytes in one call; Windows takes fewer than 2 GiB
_SEEKING = Lock()
# What flock says on network shares and FUSE file systems that have no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

# What a rename with flags says where the system or the file system has none such, and not that it went wrong.
_UNABLE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV)
_AT_FDCWD = -100
_NEW, _EXCHANGE = 1, 2  # flags of Linux' renameat2
_MACOS = {_NEW: 4, _EXCHANGE: 2}  # the same of renamex_np


def read_at(fd: int, into: memoryview, offset: int) -> int:
    """Fill `into` from a file's bytes at `offset`; returns how many there were. Threads may read one descriptor."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, (into,), offset)
    with _SEEKING:
        os.lseek(fd, offset, os.SEEK_SET)
        data = os.read(fd, min(len(into), _MOST))
    into[: len(data)] = data
    return len(data)


def write_at(fd: int, data: memoryview, offset: int) -> int:
    """Write `data` at `offset` of a file; returns how many bytes went. Threads may write and read one descriptor."""
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, data, offset)
    with _SEEKING:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data[:_MOST])


def append(fd: int, data: bytes) -> int:
    """Add `data` at the end of a file that was opened with O_APPEND; returns the offset at which it begins."""
    left = memoryview(data)
    with _SEEKING:
        while left:
            left = left[os.write(fd, left[:_MOST]) :]
        return os.lseek(fd, 0, os.SEEK_CUR) - len(data)


def sync(fd: int) -> None:
    """Return when the disk holds what was written to an open file, so that it is there after a power cut."""
    if sys.platform == "darwin":  # fsync leaves it in the drive's own cache there
        import fcntl

        with suppress(OSError):  # network shares have no such call
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def sync_file(path: Path) -> None:
    """Return when the disk holds a file's content. Windows syncs only what is open for writing."""
    fd = os.open(path, BINARY | (os.O_RDWR if sys.platform == "win32" else os.O_RDONLY))
    try:
        sync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Return when the disk holds a folder's list of names. Windows keeps that list itself and opens no folder."""
    if sys.platform == "win32":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        sync(fd)
    finally:
        os.close(fd)


def lock(fd: int, *, wait: bool) -> bool:
    """Lock an open file for this process, until the file is closed or the process ends.

    gives   False where nothing can be locked: on Windows, and on file systems that have no locks
    raises  BlockingIOError where another process holds it and `wait` is not given; OSError
    """
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except PermissionError as error:  # as some file systems say that it is held
        raise BlockingIOError(*error.args) from None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def unlock(fd: int) -> None:
    """Give back what `lock` took, and leave the file open."""
    if sys.platform != "win32":
        import fcntl

        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)


def alive(pid: int) -> bool:
    """Whether a process of this number is there; on Windows os.kill(pid, 0) would end it."""
    import psutil

    with suppress(OverflowError):  # no system has such a number: leave what it owns alone
        return psutil.pid_exists(pid)
    return True


def limit_memory(size: int) -> None:
    """Have allocations of this process fail beyond `size` bytes in all, and let it leave no core file.

    Windows has no such limit, and macOS may accept it without keeping to it.
    """
    if sys.platform == "win32":
        return
    import resource

    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or size <= hard:
            resource.setrlimit(resource.RLIMIT_AS, (size, hard))


def peak_memory() -> int:
    """The most bytes of memory that this process has held at a time."""
    if sys.platform == "win32":
        import psutil

        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def words(text: str, *, windows: bool = sys.platform == "win32") -> list[str]:
    """Split options or a command as a shell does; on Windows a backslash belongs to a path and escapes nothing.

    raises  ValueError for a quote that is not closed
    """
    import shlex

    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    if windows:
        lexer.escape = ""
    return list(lexer)


def exchange(one: Path, other: Path) -> bool:
    """Let two files or folders of one file system change their places at once; False where that cannot be done."""
    return _rename_with(one, other, _EXCHANGE)


def move_new(source: Path, target: Path) -> None:
    """Rename to a path where nothing is; FileExistsError where something is, which stays."""
    if _rename_with(source, target, _NEW):
        return
    try:
        os.link(source, target)  # a file that exists is never replaced by a link; folders have none
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(source, target)
    else:
        os.unlink(source)


def _rename_with(source: Path, target: Path, flag: int) -> bool:
    """Rename with one of the flags; False where the system or the file system has none such."""
    import ctypes

    function = _renamer()
    if function is None:
        return False
    one, other = os.fsencode(source), os.fsencode(target)
    if sys.platform == "darwin":
        failed = function(one, other, _MACOS[flag])
    else:
        failed = function(_AT_FDCWD, one, _AT_FDCWD, other, flag)
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in _UNABLE:
        return False
    raise OSError(number, os.strerror(number), str(target))


@cache
def _renamer() -> Any:
    """The C library's function that renames with flags, None where it has none."""
    import ctypes

    name = {"linux": "renameat2", "darwin": "renamex_np"}.get(sys.platform)
    return None if name is None else getattr(ctypes.CDLL(None, use_errno=True), name, None)
