"""Signals that end a run: they wait for a safe moment, and it is said what is kept."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lorakit.errors import Stopped, some
from lorakit.runtime.platform import ENDING


class Asked:
    """`number` is the signal that came, 0 while none has; `since`, when."""

    number = 0
    since = 0.0


@contextmanager
def deferred(echo: float = 0.0) -> Iterator[Asked]:
    """While it is open, the signals that ask a program to end are noted and not acted on; a second one acts at once.

    echo    seconds in which another is the same one again: a launcher hands on what its processes may have had already
    """
    asked, old = Asked(), {}

    def handle(number: int, frame: object) -> None:
        if asked.number != number:
            asked.number, asked.since = number, time.monotonic()
        elif time.monotonic() - asked.since >= echo:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not echo:  # the second one ends it even where Python cannot be asked
            signal.signal(number, signal.SIG_DFL)

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            old[number] = signal.signal(number, handle)
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def telling(kept: Callable[[], str]) -> Iterator[None]:
    """A signal that ends what is inside is told with `kept()`: what is kept and how to go on. What is further inside
    and knows it better has told it already."""
    try:
        yield
    except Stopped as stopped:
        if str(stopped):
            raise
        raise Stopped(stopped.signal_number, f"stopped; {kept()}") from None


def written(files: Sequence[object]) -> str:
    """What is told of a command that makes each of its files whole or not at all, and begins anew."""
    if not files:
        return "nothing was written, and the same command begins anew"
    return f"written and whole: {some(list(map(str, files)), 3)}; with --force the same command makes all anew"
