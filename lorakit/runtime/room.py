"""Memory shared by workers: who needs more than is left waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Room:
    """So many bytes; one who needs more than all of it gets it alone."""

    def __init__(self, size: int) -> None:
        self._size, self._used, self._changed = size, 0, Condition()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        size = min(size, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._used + size <= self._size)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()
