"""Makes lorakit's own code see another operating system than the one it runs on: what that one lacks is gone.

`install("windows")` or `install("macos")` acts on modules of lorakit alone, since libraries ask `sys.platform` and would
rightly call here what the other system lacks. Tests turn it on with `pytest --on windows`, for the processes that they
start too (`sitecustomize.py`).

Of Windows it shows: no fcntl, resource, SIGHUP, os.pread, O_NONBLOCK and so on; text files that are opened without an
encoding or a newline are in cp1252 with \\r\\n; os.open without O_BINARY, os.kill(pid, 0) and waiting for pipes fail; a
folder cannot be opened, a file open for reading not synced, an open file not replaced, renamed or removed; names of
devices and characters that no name may have are refused. Not shown are paths with `\\`, which tests try as values, and
names that differ in case alone.
"""

import builtins
import errno
import io
import os
import re
import signal
import sys
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any

VARIABLE = "LORAKITS_TESTS_ON"
_O_BINARY = 0x8000  # as on Windows; Linux takes no notice of this bit

_LACKS_ON_WINDOWS = {
    "os": (
        "pread preadv pwrite pwritev readv writev fork forkpty killpg setsid getsid setpgid getpgid getpgrp getuid geteuid "
        "getgid getegid getgroups setuid setgid chown lchown fchown fchmod fchdir chroot mkfifo mknod openpty nice uname "
        "sched_getaffinity sched_setaffinity sched_yield posix_fadvise posix_fallocate posix_spawn statvfs fstatvfs sysconf "
        "confstr pathconf wait wait3 wait4 waitid WIFEXITED WEXITSTATUS WIFSIGNALED WTERMSIG set_blocking get_blocking "
        "sendfile sync fdatasync lockf memfd_create copy_file_range splice eventfd getxattr setxattr listxattr environb "
        "getloadavg ctermid register_at_fork pipe2 ttyname O_NONBLOCK O_CLOEXEC O_NOFOLLOW O_DIRECTORY O_SYNC O_DSYNC "
        "O_TMPFILE O_NOCTTY O_NDELAY O_ASYNC O_PATH O_NOATIME"
    ),
    "signal": (
        "SIGHUP SIGKILL SIGQUIT SIGUSR1 SIGUSR2 SIGPIPE SIGALRM SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGXCPU "
        "SIGXFSZ SIGWINCH SIGBUS SIGSYS SIGTRAP SIGURG SIGIO SIGPROF SIGVTALRM alarm setitimer getitimer pause siginterrupt "
        "pthread_kill pthread_sigmask sigwait sigpending"
    ),
}
_NO_MODULES_ON_WINDOWS = [
    "fcntl",
    "resource",
    "pwd",
    "grp",
    "termios",
    "tty",
    "pty",
    "posix",
    "syslog",
    "select",
    "selectors",
]
_LACKS_ON_MACOS = {
    "os": (
        "sched_getaffinity sched_setaffinity posix_fadvise posix_fallocate fdatasync memfd_create copy_file_range splice "
        "eventfd getxattr setxattr listxattr pipe2 O_TMPFILE O_PATH O_NOATIME"
    )
}
_FULL_SYNC = 51  # F_FULLFSYNC
full_syncs: list[int] = []
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\s*(\..*)?", re.IGNORECASE)


class _View(ModuleType):
    """A module as another system has it: without `lacks`, with `given`; all else, and what is set, is the real one's."""

    def __init__(self, real: ModuleType, lacks: str = "", given: dict[str, Any] | None = None) -> None:
        super().__init__(real.__name__, real.__doc__)
        self.__dict__.update(_real=real, _lacks=frozenset(lacks.split()), _given=given or {})

    def __getattr__(self, name: str) -> Any:
        if name in self._given:
            return self._given[name]
        if name in self._lacks:
            raise AttributeError(f"module '{self.__name__}' has no attribute '{name}' on this system")
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._real, name)


def install(system: str) -> None:
    """From now on modules of lorakit see this system; call it before the first of them is imported."""
    assert "lorakit" not in sys.modules
    views, missing = _windows() if system == "windows" else _macos()
    real_import = builtins.__import__

    def seen(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level == 0 and globals and _of_lorakit(globals):
            if name in missing:
                raise ModuleNotFoundError(f"No module named '{name}' on this system", name=name)
            if name in views:
                return views[name]
        return real_import(name, globals, locals, fromlist, level)

    builtins.__import__ = seen


def _of_lorakit(globals: dict[str, Any]) -> bool:
    """Whether this is a module of lorakit, also where `python -m` runs it."""
    return str(globals.get("__package__") or globals.get("__name__")).partition(".")[0] == "lorakit"


def _asked_by_lorakit() -> bool:
    """Whether the nearest caller that is not in the standard library's ways to files is a module of lorakit."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_globals.get("__name__") in ("pathlib", "shutil", "os", "contextlib", __name__):
        frame = frame.f_back
    return _of_lorakit(frame.f_globals)


def _macos() -> tuple[dict[str, ModuleType], list[str]]:
    import fcntl
    import resource

    def control(fd: int, command: int, argument: Any = 0) -> Any:
        if command != _FULL_SYNC:
            return fcntl.fcntl(fd, command, argument)
        full_syncs.append(fd)
        return os.fsync(fd)

    def used(who: int) -> Any:
        found = resource.getrusage(who)
        return type("rusage", (), {"ru_maxrss": found.ru_maxrss * 1024})  # bytes there

    def limit(what: int, limits: tuple[int, int]) -> None:
        if what == resource.RLIMIT_AS:
            raise ValueError("current limit exceeds maximum limit")
        resource.setrlimit(what, limits)

    return {
        "os": _View(os, _LACKS_ON_MACOS["os"]),
        "sys": _View(sys, "", {"platform": "darwin"}),
        "fcntl": _View(fcntl, "", {"F_FULLFSYNC": _FULL_SYNC, "fcntl": control}),
        "resource": _View(resource, "", {"getrusage": used, "setrlimit": limit}),
    }, []


def _windows() -> tuple[dict[str, ModuleType], list[str]]:
    import ctypes
    import fcntl

    def library(name: str | None, *more: Any, **options: Any) -> Any:
        if name is None:
            raise TypeError("argument of type 'NoneType' is not iterable")
        return ctypes.CDLL(name, *more, **options)

    def opened(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        if not flags & _O_BINARY and path != os.devnull:
            raise AssertionError(f"os.open({str(path)!r}) without O_BINARY turns \\n into \\r\\n on Windows")
        if flags & os.O_CREAT:
            _check_name(path)
        return real["open"](path, flags & ~_O_BINARY, mode, **more)

    def synced(fd: int) -> None:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real["fsync"](fd)

    def ended(pid: int, number: int) -> None:
        raise AssertionError(f"os.kill({pid}, {number}) ends the process on Windows")

    real = {"open": os.open, "fsync": os.fsync}
    _guard_names()
    _guard_text()
    given = {"name": "nt", "O_BINARY": _O_BINARY, "open": opened, "fsync": synced, "kill": ended}
    return {
        "os": _View(os, _LACKS_ON_WINDOWS["os"], given),
        "signal": _View(signal, _LACKS_ON_WINDOWS["signal"]),
        "sys": _View(sys, "", {"platform": "win32"}),
        "ctypes": _View(ctypes, "", {"CDLL": library}),
    }, _NO_MODULES_ON_WINDOWS


def _check_name(path: Any) -> None:
    name = PurePosixPath(os.fsdecode(path)).name
    if re.search(r'[<>:"|?*\\\x00-\x1f]', name) or name.endswith((".", " ")) or _DEVICE.fullmatch(name):
        raise OSError(errno.EINVAL, "Invalid argument", str(path))


def _is_open_here(path: Any, folder: int | None) -> bool:
    """Whether this process has the file open, or one below it."""
    path = os.fsdecode(path)
    whole = os.path.realpath(os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path) if folder is not None else path)
    for fd in os.listdir("/proc/self/fd"):
        try:
            held = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if (held == whole and not os.path.isdir(whole)) or held.startswith(f"{whole}/"):
            return True
    return False


def _check_open(paths: tuple[Any, ...], folder: int | None) -> None:
    for path in paths:
        if not os.path.islink(path) and _is_open_here(path, folder):
            raise PermissionError(errno.EACCES, "it is open: [WinError 32]", str(path))


def _guard_names() -> None:
    """What changes names refuses an open file, as asked by lorakit."""

    def guarded(name: str, onto: bool) -> Any:
        real = getattr(os, name)

        def change(path: Any, *more: Any, **options: Any) -> Any:
            if _asked_by_lorakit():
                _check_open((path, more[0]) if onto else (path,), options.get("dir_fd"))
                if onto:
                    _check_name(more[0])
                if name == "rename" and os.path.exists(more[0]):
                    raise FileExistsError(errno.EEXIST, "File exists", str(path), None, str(more[0]))
            return real(path, *more, **options)

        return change

    for name in ("replace", "rename", "unlink", "remove"):
        setattr(os, name, guarded(name, name in ("replace", "rename")))
    mkdir = os.mkdir

    def make(path: Any, *more: Any, **options: Any) -> None:
        if _asked_by_lorakit():
            _check_name(path)
        mkdir(path, *more, **options)

    os.mkdir = make


def _guard_text() -> None:
    """Text that lorakit opens without saying how is in the encoding and with the line ends of Windows."""
    real = io.open

    def opened(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: Any = None,
        errors: Any = None,
        newline: Any = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if _asked_by_lorakit():
            writes = any(letter in mode for letter in "wxa")
            if writes and not isinstance(file, int) and file != os.devnull:
                _check_name(file)
            if "b" not in mode:
                encoding = "cp1252" if encoding in (None, "locale") else encoding
                newline = "\r\n" if newline is None and writes else newline
        return real(file, mode, buffering, encoding, errors, newline, closefd, opener)

    io.open = builtins.open = opened  # type: ignore[assignment]
