"""Arrays put aside on the disk while a job goes on, so that what it holds does not grow with its output."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from threading import Lock

from lorakit.arrays import Array, Stored, dtype_of, nbytes, raw
from lorakit.errors import StorageError
from lorakit.runtime.platform import read_at, write_at


class Scratch:
    """A file without a name beside an output: it is gone when the last array of it is, and when the process dies.

    `keep` may be called by many threads. What the disk refuses is a StorageError that names the output.
    """

    def __init__(self, beside: Path) -> None:
        folder = beside.resolve().parent
        while not folder.exists():
            folder = folder.parent
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  closed with the last reader
        except OSError as error:
            raise StorageError(f"{beside} could not be written: {error.strerror or error}") from error
        self._beside, self._lock, self._end = beside, Lock(), 0

    def keep(self, x: Array) -> Stored:
        """The array, its bytes now in the file."""
        size = nbytes(x)
        with self._lock:
            begin, self._end = self._end, self._end + size
        left, at = memoryview(raw(x)), begin
        try:
            while left:
                done = write_at(self._file.fileno(), left, at)
                left, at = left[done:], at + done
        except OSError as error:
            raise StorageError(f"{self._beside} could not be written: {error.strerror or error}") from error
        return Stored(dtype_of(x), tuple(x.shape), partial(self._read, begin, size))

    def _read(self, begin: int, size: int) -> memoryview:
        data = memoryview(bytearray(size))
        at = 0
        while at < size:
            done = read_at(self._file.fileno(), data[at:], begin + at)
            if not done:
                raise StorageError(f"{self._beside} could not be written: what was put aside is gone")
            at += done
        return data
