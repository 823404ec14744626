"""What becomes of memory that was freed."""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3)
_ROOM = 64 << 20

# The environment of a process that reads pictures. glibc gives buffers of megabytes back to the system with each picture
# and asks for them anew, zeroed page by page: an eighth of a large JPEG's time, and what processes beside one another wait
# for. Within these bounds the memory is kept for the next one.
KEEPS_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}


def keep_freed_memory() -> None:
    """From now on freed memory stays with the process, where the C library is glibc.

    Each step asks for the buffers that the last one freed. Pages that went back to the system in between are faulted in
    and zeroed anew, thousands a step: 4 % of the time of a step of the built-in model.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    for what, value in ((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, (1 << 31) - 1), (_TOP_PAD, _ROOM)):
        mallopt(what, value)
