"""Every way a run can end badly that is not a bug.

LorakitError
├── UsageError          2  the command line or the config is wrong
├── InputError          3  a file or picture is bad, an adapter fits nothing
├── RefusedError        4  the output exists, or another run holds it
├── StorageError        5  the disk is full or cannot be written
├── UnavailableError    6  a model or file is not to be had
├── ResourceError       7  out of memory
└── NumericError        8  NaN or infinity in a loss, gradient, latent or weight

Stopped is no error: a signal asked the run to end, and what could be saved is saved.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class LorakitError(Exception):
    """One sentence for the user: what is wrong, with which file or option, and what to do."""

    exit_status = 1


class UsageError(LorakitError):
    exit_status = 2


class InputError(LorakitError):
    exit_status = 3


class RefusedError(LorakitError):
    exit_status = 4


class StorageError(LorakitError):
    exit_status = 5


class UnavailableError(LorakitError):
    exit_status = 6


class ResourceError(LorakitError):
    exit_status = 7


class NumericError(LorakitError):
    exit_status = 8


class Stopped(BaseException):
    """Ended by a signal; a BaseException so that no handler of errors swallows it."""

    def __init__(self, signal_number: int, note: str = "") -> None:
        super().__init__(note)
        self.signal_number, self.exit_status = signal_number, 128 + signal_number


def some(names: Sequence[str], most: int, between: str = ", ") -> str:
    """The first `most` of many, for a sentence, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more


def by_reason(lines: Iterable[str]) -> dict[str, list[str]]:
    """Of lines that are each a name, ": " and what is so of it: what, to all that it is so of."""
    found: dict[str, list[str]] = {}
    for line in lines:
        name, _, what = line.partition(": ")
        found.setdefault(what, []).append(name)
    return found


def told_once(lines: Iterable[str], most: int = 2) -> list[str]:
    """Such lines, those that are so of several joined into one with their number."""
    return [
        f"{what} ({len(names)}: {some(names, most)})" if len(names) > 1 else f"{names[0]}: {what}"
        for what, names in by_reason(lines).items()
    ]


def faults_together(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """work(item) of each item. What is wrong with them is one InputError that names all, not the first alone."""
    done, wrong = [], list[InputError]()
    for item in items:
        try:
            done.append(work(item))
        except InputError as error:
            wrong.append(error)
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        raise InputError("\n".join(dict.fromkeys(" ".join(str(error).split()) for error in wrong))) from wrong[0]
    return done


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it came of, the last one first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def reason(error: OSError) -> str:
    """Why, in the system's words; of the many errors that copying a folder gathers, the first one's."""
    told = re.search(r"\[Errno (\d+)\]", str(error))
    return error.strerror or (os.strerror(int(told[1])) if told else str(error))


def all_of(faults: Sequence[str]) -> str:
    """Every fault, on the four lines that an error may have: one a line, and on the last one all that are left."""
    return "\n".join(faults if len(faults) <= 4 else [*faults[:3], "; ".join(faults[3:])])


def shorten(text: str, most: int) -> str:
    """The text, or its first letters where it has more than `most`, for a sentence."""
    return text if len(text) <= most else f"{text[:most]} ..."
