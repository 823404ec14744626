"""One run at a time over one output."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorakit.errors import RefusedError, StorageError


@contextmanager
def held(folder: Path, name: str = ".lock", *, wait: bool = False, dry_run: bool = False) -> Iterator[None]:
    """Hold `folder`/`name` for this process; where another holds it, RefusedError, or with `wait` until it is free.

    The kernel frees it at any death. A dry run makes neither the folder nor the file: without them the lock is free.
    """
    if dry_run and not (folder / name).is_file():
        yield
        return
    try:
        if not dry_run:
            folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / name).open("r" if dry_run else "w")
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            raise RefusedError(
                f"another lorakit run is at work in {folder}; wait for it or choose another output"
            ) from error
        yield
