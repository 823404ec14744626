"""Signals that wait for a safe moment."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Asked:
    """`number` is the signal that came, 0 while none has."""

    number = 0


@contextmanager
def deferred() -> Iterator[Asked]:
    """While it is open, SIGINT, SIGTERM and SIGHUP are noted and not acted on; a second one acts at once."""
    asked, old = Asked(), {}

    def handle(number: int, frame: object) -> None:
        asked.number = number
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            old[number] = signal.signal(number, handle)
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
