"""Paths as people write them, and as they stand in files. Standard library only: a wrong path is told at once."""

import ntpath
import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path, PurePath, PureWindowsPath

from lorakit.errors import StorageError
from lorakit.io.inputs import check_inputs
from lorakit.naming import undone

_WEIGHT = re.compile(r"^(.+):([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)$")


def check_local(path: str) -> str:
    """`path`; ValueError for one on another machine, which Windows signs in to as soon as it looks there."""
    if path[:2].strip("\\/") == "" and len(path) > 1:
        raise ValueError(f"{path!r} lies on another machine; copy it here, or name it on the command line")
    return path


def split(argument: str) -> tuple[str, float]:
    """(path, weight) of `PATH[:WEIGHT]`: only a trailing `:number` is a weight, and not where a file of the whole name is."""
    match = _WEIGHT.match(argument)
    if match is None or os.path.lexists(argument):
        return argument, 1.0
    return match.group(1), float(match.group(2))


def is_recipe(path: str) -> bool:
    """Whether an adapter argument names a recipe and no adapter."""
    return os.path.splitext(path)[1] == ".toml"


def check_adapters(arguments: Iterable[str]) -> None:
    """InputError that names every adapter that is not there, and every one that is no file or folder."""
    check_inputs((path for path, _ in map(split, arguments)), "adapter file")


def relative_name(path: PurePath, folder: PurePath) -> str:
    """`path` as a file in `folder` gives it: relative to that folder and with `/` on every system, so that both can move.

    Two absolute paths. From another drive the path is given whole.
    """
    system = ntpath if isinstance(path, PureWindowsPath) else posixpath
    try:
        return system.relpath(path, folder).replace(system.sep, "/")
    except ValueError:  # another drive
        return path.as_posix()


def file_named(folder: Path, name: str) -> Path:
    """The file that a table or a recipe in `folder` names. One that was written on Windows may have `\\` for `/`, and one
    of ours `\\xNN` for a byte that is no UTF-8."""
    file = folder / name
    if "\\" not in name or file.exists():
        return file
    spelt = folder / undone(name)
    return spelt if spelt.exists() else folder / name.replace("\\", "/")


def leads_out(name: str, system: type[PurePath] = PurePath) -> bool:
    """Whether a name in a file can be of something that is not below the file's folder, on this system."""
    path = system(name.replace("\\", "/"))
    return bool(path.anchor) or ".." in path.parts


def home_folder(purpose: str) -> str:
    """The user's home folder; StorageError where there is none, as for users that a container's system does not know.

    purpose   what is to be kept there; and what to do where it cannot be
    """
    told = os.environ.get("HOME")
    home = os.path.expanduser("~") if told is None or os.path.isabs(told) else ""
    if not os.path.isabs(home):
        raise StorageError(f"there is no home folder for {purpose}")
    return home
