"""Outputs that appear whole or not at all; what is read is looked at in io/inputs."""

import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import count
from pathlib import Path

from lorakit.errors import RefusedError, StorageError, UsageError, reason
from lorakit.io.endings import FOLDER, OutputKind
from lorakit.io.reader import step_aside
from lorakit.io.record import TEMPORARY, What, clear, left_over, record_of, stranger_in, survey, write_record
from lorakit.naming import shown
from lorakit.runtime import platform
from lorakit.talk import Note, silent


class NameTaken(RefusedError):
    """Something stands where a new file was to be; it stays."""


_FREE: set[Path] = set()  # targets that were found free, and must be so still when they are written


def check_target(target: Path, kind: OutputKind, *, force: bool) -> None:
    """Refuse, before any work, an output that cannot be or must not be written. Creates nothing.

    raises  UsageError (2) where its name says that it is of another kind; RefusedError (4) where it exists and `force`
            is not given, or holds what lorakit did not write; StorageError (5) where it cannot be written
    """
    kind.check(target)
    folder, resolved = kind.is_folder(target), _resolved(target)
    if folder:
        _sweep(resolved)
    _FREE.discard(resolved)
    if os.path.lexists(resolved):
        _check_sort(target, resolved, folder)
        if folder and (stranger := stranger_in(resolved)) is not None:
            raise RefusedError(
                f"{target} holds {stranger}, which lorakit did not write or which was changed since; choose another output"
            )
        if not force:
            raise RefusedError(f"{target} exists; choose another output or overwrite it with --force")
    elif not force:
        _FREE.add(resolved)
    _check_writable(target, resolved.parent)


def check_targets(targets: Iterable[tuple[Path | str | None, OutputKind]], *, force: bool) -> None:
    """The same for all outputs of a command; those that are None are not asked for."""
    seen: set[Path] = set()
    for path, kind in targets:
        if path is None:
            continue
        target = Path(path)
        check_target(target, kind, force=force)
        if (resolved := _resolved(target)) in seen:
            raise UsageError(f"{target}: two outputs would be written there; give each a name of its own")
        seen.add(resolved)


def check_place(folder: Path) -> None:
    """The same for a folder that files are added to: one that exists may hold anything."""
    FOLDER.check(folder)
    resolved = _resolved(folder)
    if os.path.lexists(resolved):
        _check_sort(folder, resolved, True)
    _check_writable(folder, resolved)


def _resolved(target: Path) -> Path:
    """The path that a target stands for, links followed."""
    resolved = Path(os.path.realpath(target))
    if os.path.islink(resolved):
        raise RefusedError(f"{target} is a link that leads to itself; choose another output")
    return resolved


def _check_sort(target: Path, resolved: Path, folder: bool) -> None:
    if _is_special(resolved):
        raise RefusedError(f"{target} is a device or a pipe; give the path of a file or folder")
    if resolved.is_dir() != folder:
        raise RefusedError(f"{target} is {'not ' if folder else ''}a folder; choose another output")


def _check_writable(target: Path, place: Path) -> None:
    try:
        target.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error.strerror}") from error
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise StorageError(f"{target}: {place} is not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(f"{target} cannot be written: no permission in {place}")


_LONGEST = 180  # bytes of a target's name in a temporary one, which is to fit into 255


def _stem(name: str) -> str:
    return os.fsencode(name)[:_LONGEST].decode("utf-8", "ignore")


@lru_cache(maxsize=64)
def _left_over(folder: Path) -> dict[str, list[Path]]:
    """Temporary paths in `folder` of processes that were killed, by target; a folder is searched once a process."""
    found: dict[str, list[Path]] = {}
    with suppress(OSError):
        for name in os.listdir(folder):
            if (match := TEMPORARY.fullmatch(name)) and left_over(folder / name):
                found.setdefault(match[1], []).append(folder / name)
    return found


def _sweep(resolved: Path) -> None:
    """Take away what killed processes left of a target. A folder that was being replaced is whole again afterwards."""
    for path in _left_over(resolved.parent).pop(_stem(resolved.name), []):
        with suppress(OSError):
            if not path.is_dir():
                path.unlink()
            elif path.suffix == ".partial":
                shutil.rmtree(path)  # never finished: all in it is ours
            elif path.suffix == ".old" and not os.path.lexists(resolved):
                os.rename(path, resolved)  # killed between two renames
            else:
                _settle(path, resolved, resolved, silent)


def _named(resolved: Path, suffix: str) -> Path:
    return resolved.with_name(f".{_stem(resolved.name)}.{os.getpid()}-{secrets.token_hex(4)}.{suffix}")


class _Temporary:
    """A new file or folder beside a target, claimed for this process, so that no other takes it for left over."""

    def __init__(self, resolved: Path, folder: bool = False) -> None:
        _sweep(resolved)
        while True:
            self.path = _named(resolved, "partial")
            self._handle = self._made(folder)
            try:
                if self._handle >= 0:
                    platform.lock(self._handle, wait=False)
                break
            except BlockingIOError:
                self.release()  # another process was sweeping at this moment, and removes it
        self._own = self.path.lstat()

    def _made(self, folder: bool) -> int:
        """A handle of the new file or folder; -1 where the system opens no folders."""
        if folder:
            self.path.mkdir()
            return -1 if sys.platform == "win32" else os.open(self.path, os.O_RDONLY)
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | platform.BINARY, 0o666)

    def is_at(self, path: Path) -> bool:
        """Whether what was made here stands at `path` now."""
        with suppress(OSError):
            return os.path.samestat(self._own, path.lstat())
        return False

    def release(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def __enter__(self) -> "_Temporary":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        with suppress(OSError):
            if self.is_at(self.path):  # nothing came of it
                shutil.rmtree(self.path) if self.path.is_dir() else self.path.unlink()


def _is_special(path: Path) -> bool:
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


@contextmanager
def replacing(target: Path, *, new: bool = False) -> Iterator[Path]:
    """Gives a temporary path beside `target`; what is there at the end is synced and renamed onto `target`.

    In a folder with an open record (io/record.py) the file is listed there, and nothing is replaced that lorakit did not
    write. Elsewhere a link is followed. An old file's mode is kept, and OSError becomes StorageError.

    new     nothing may stand at `target` by then: Taken where something does
    """
    listed = record_of(target)
    if listed is None:
        resolved, record, name = _resolved(target), None, ""
    else:
        record, name = listed
        resolved = record.folder / name
    try:
        if _is_special(resolved):
            raise RefusedError(f"{target} is a device or a pipe; give the path of a file or folder")
        absent = not os.path.lexists(resolved)
        new = new or resolved in _FREE or (record is not None and absent)
        if new and not absent:
            raise _taken(target)
        if record is not None:
            record.check([name])
        resolved.parent.mkdir(parents=True, exist_ok=True)
        with _Temporary(resolved) as temporary:
            yield temporary.path
            platform.sync_file(temporary.path)
            if record is not None:
                if not new:
                    record.check([name])  # it may have been changed meanwhile
                record.add(name, temporary.path)
            temporary.release()  # some systems rename no open file
            _put(temporary.path, resolved, target, new)
        _FREE.discard(resolved)
        if record is not None:
            record.sync()
        platform.sync_folder(resolved.parent)
    except OSError as error:
        raise StorageError(f"{target} could not be written: {reason(error)}") from error


def _put(partial: Path, resolved: Path, shown: Path, new: bool) -> None:
    if new:
        try:
            return platform.move_new(partial, resolved)
        except FileExistsError:
            raise _taken(shown) from None
    if resolved.exists():
        os.chmod(partial, stat.S_IMODE(resolved.stat().st_mode))
    step_aside(resolved)
    os.replace(partial, resolved)


def _taken(shown: Path) -> NameTaken:
    return NameTaken(
        f"{shown} was written by another while this was at work, and stays; choose another output or overwrite it with --force"
    )


def write_bytes(target: Path, data: bytes, *, new: bool = False) -> None:
    with replacing(target, new=new) as partial:
        partial.write_bytes(data)


def write_text(target: Path, text: str) -> None:
    write_bytes(target, shown(text).encode())


def check_own(target: Path) -> None:
    """RefusedError where, in a folder with an open record, something stands at `target` that lorakit did not write."""
    if (listed := record_of(target)) is not None:
        listed[0].check([listed[1]])


def growing(target: Path) -> None:
    """Say that `target` is about to be made or added to in place. In a folder with an open record it is listed as such;
    RefusedError where something stands there that lorakit did not write."""
    check_own(target)
    if (listed := record_of(target)) is not None:
        record, name = listed
        target.parent.mkdir(parents=True, exist_ok=True)
        record.grows(name)


def grown(target: Path) -> None:
    """Say that a growing file is complete: it is listed by what it holds."""
    if (listed := record_of(target)) is not None:
        record, name = listed
        record.add(name, target)


def remove(target: Path) -> None:
    """Remove a file that lorakit wrote. In a folder with an open record it stays where it is not lorakit's."""
    listed = record_of(target)
    if listed is None or listed[0].ours(listed[1]):
        target.unlink(missing_ok=True)


@contextmanager
def replacing_folder(target: Path, note: Note = silent) -> Iterator[Path]:
    """The same for a folder: the new one, with a record of its files, takes the old one's place at once.

    Of the old folder only what lorakit wrote goes. What a person put there meanwhile is moved into the new one, or stays
    in the old one where its name is taken, which is noted.
    """
    resolved = _resolved(target)
    try:
        resolved.parent.mkdir(parents=True, exist_ok=True)
        with _Temporary(resolved, folder=True) as temporary:
            yield temporary.path
            write_record(temporary.path)
            for path in (*sorted(temporary.path.rglob("*")), temporary.path):
                (platform.sync_folder if path.is_dir() else platform.sync_file)(path)
            temporary.release()
            _switch(temporary, resolved, target, note)
        _FREE.discard(resolved)
    except OSError as error:
        raise StorageError(f"{target} could not be written: {reason(error)}") from error


def _switch(temporary: _Temporary, resolved: Path, shown: Path, note: Note) -> None:
    """Let a new folder take its place. Killed at any moment, the next run of the same command finds the old one or the
    new one there; what is left beside it then is taken away by `_sweep`."""
    whole = temporary.path.with_suffix(".whole")
    os.rename(temporary.path, whole)
    try:
        if not os.path.lexists(resolved) or resolved in _FREE:
            _put(whole, resolved, shown, True)
            return platform.sync_folder(resolved.parent)
        old = whole
        if not platform.exchange(whole, resolved):
            old = whole.with_suffix(".old")
            step_aside(resolved)
            os.rename(resolved, old)
            try:
                os.rename(whole, resolved)
            except BaseException:
                os.rename(old, resolved)
                raise
    finally:
        if temporary.is_at(whole):
            os.rename(whole, temporary.path)  # for the caller to remove
    platform.sync_folder(resolved.parent)
    _settle(old, resolved, shown, note)


def _settle(old: Path, new: Path, shown: Path, note: Note) -> None:
    """Take away an old folder in whose place a new one stands; what lorakit did not write there is kept."""
    for found in list(survey(old)):
        if found.what in (What.OURS, What.IN_USE) or os.path.lexists(new / found.name):
            continue
        with suppress(OSError):
            (new / found.name).parent.mkdir(parents=True, exist_ok=True)
            os.rename(old / found.name, new / found.name)
            if found.what is What.STRANGER:
                note(f"{shown / found.name} came while this was at work; it is kept")
    clear(old)
    if stranger_in(old) is None:
        shutil.rmtree(old, ignore_errors=True)
        return
    place = next(path for n in count() if not os.path.lexists(path := new.with_name(f"{new.name}.old{n or ''}")))
    os.rename(old, place)
    note(f"{place} keeps what was changed in {shown} while this was at work")
