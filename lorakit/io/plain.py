"""Text out of files that nobody vouches for: regular files alone, of bounded size. Standard library only."""

import os
from pathlib import Path

from lorakit.errors import InputError
from lorakit.io.files import open_to_read

_MOST_BYTES = 4 << 20


def read_bytes(path: str | Path, what: str, most: int = _MOST_BYTES) -> bytes:
    """InputError for what is no regular file, cannot be read, or has more than `most` bytes."""
    with os.fdopen(open_to_read(path, what), "rb") as file:
        try:
            data = file.read(most + 1)
        except OSError as error:
            raise InputError(f"{path}: {what} could not be read: {error.strerror or error}") from error
        if len(data) > most:
            size = max(os.fstat(file.fileno()).st_size, len(data))
            raise InputError(f"{path} has {size:,} bytes; of {what} at most {most:,} are read")
    return data


def read_text(path: str | Path, what: str, most: int = _MOST_BYTES) -> str:
    """A file's text in UTF-8, without a byte order mark, line ends as they are; InputError as read_bytes."""
    try:
        return read_bytes(path, what, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
