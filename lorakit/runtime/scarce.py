"""Errors that mean that the machine has no more of something: memory, open files, threads."""

import errno

from lorakit.errors import causes

MEMORY, FILES, THREADS = "memory", "open files", "threads"
_SAID = {  # libraries say it in words of their own, as RuntimeError or ImportError
    "can't allocate memory": MEMORY,
    "cannot allocate memory": MEMORY,
    "failed to map segment": MEMORY,
    "not enough memory": MEMORY,
    "out of memory": MEMORY,
    "bad_alloc": MEMORY,
    "alloc_failed": MEMORY,
    "too many open files": FILES,
    "can't start new thread": THREADS,
}
_NUMBERS = {errno.ENOMEM: MEMORY, errno.EMFILE: FILES, errno.ENFILE: FILES}


def lacking(error: BaseException) -> str | None:
    """What was not to be had when this error, or one that it was raised over, came up; None for errors of other kinds."""
    if isinstance(error, BlockingIOError):  # of fork; deeper in a chain it is of a lock that another process holds
        return THREADS
    return next((what for one in causes(error) if (what := _lacking(one))), None)


def _lacking(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):  # numpy's too
        return MEMORY
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return _NUMBERS[error.errno]
    if not isinstance(error, RuntimeError | ImportError):  # torch.OutOfMemoryError is a RuntimeError
        return None
    text = str(error).lower()
    return next((what for words, what in _SAID.items() if words in text), None)
