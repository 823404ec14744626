"""One run at a time over one output."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorakit.errors import RefusedError, StorageError


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold `folder`/.lock for this process; RefusedError where another holds it. The kernel frees it at any death."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RefusedError(
                f"another lorakit run is at work in {folder}; wait for it or choose another output"
            ) from error
        yield
