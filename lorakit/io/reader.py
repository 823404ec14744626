"""Files that are read piece by piece, and may be replaced meanwhile by the job that reads them."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from weakref import WeakSet

from lorakit.errors import InputError
from lorakit.runtime.platform import read_at

_open: WeakSet[Reader] = WeakSet()


class Reader:
    """An open file, closed when the last tensor that may be read from it is gone.

    Read with pread and not mapped: where somebody cuts a mapped file the process dies of SIGBUS, and pages that were
    read once count as ours.
    """

    __slots__ = ("__weakref__", "_close", "fd", "path")

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self.fd, self._close = path, fd, os.close
        if sys.platform == "win32":
            _open.add(self)

    def __del__(self) -> None:
        self._close(self.fd)

    def read(self, offset: int, size: int) -> memoryview:
        import numpy as np  # io/files imports this module for arguments that are wrong, and must stay light

        data = np.empty(size, np.uint8).data  # a bytearray would be filled with zeros first
        try:
            done = read_at(self.fd, data, offset) if size else 0
            while done < size:  # a call gives 2 GiB at most
                more = read_at(self.fd, data[done:], offset + done)
                if not more:
                    raise InputError(f"{self.path} was cut short while being read")
                done += more
        except OSError as error:
            raise InputError(f"{self.path} could not be read: {error.strerror or error}") from error
        return data


def step_aside(target: Path) -> None:
    """Let go of `target`, or of files in it, so that Windows, which keeps the name of an open file, can replace it.

    What is read of it from now on comes from a copy without a name. Other systems need none of this. OSError where there
    is no room for the copy.
    """
    if sys.platform != "win32":
        return
    for reader in list(_open):
        path = reader.path.resolve()
        if path == target or target in path.parents:
            with path.open("rb") as file, tempfile.TemporaryFile() as copy:
                shutil.copyfileobj(file, copy, 1 << 20)
                copy.flush()
                os.dup2(copy.fileno(), reader.fd, inheritable=False)
            _open.discard(reader)
