"""Regular expressions that come from files and options, matched in bounded time.

Python's `re` has no time limit and goes back for ever in a pattern such as `(\\w+\\.?)+!`. `re` says here what is a regular
expression and what it means; `regex` (a dependency of transformers) does the matching, which guards against most of
those patterns and stops at a time limit in the rest. The two read a pattern alike but for fuzzy counts, `(?:a){e<=1}`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from time import thread_time
from typing import Any

from lorakit.errors import InputError, LorakitError

_LONGEST = 4000  # characters
_MOST_COUNTED = 1000  # `a{30}` inside `{30}` is compiled as 900 copies
_SECONDS = 2.0
_USUAL = 2e-5  # seconds that a match takes at most which is nothing out of the ordinary
_WHOLE = re.compile(r"\^((?:\w|\\\.)+)\$")  # one name and no other, as `compose --learn-per layer` writes them
_COUNTS = re.compile(r"\{(\d{0,9})(?:,(\d{0,9}))?\}")
_OTHERWISE = re.compile(r"\{[^{}]*[a-z<>][^{}]*\}|\[:\w+:\]")  # what `regex` reads otherwise than `re`


@dataclass
class Time:
    """CPU seconds that all patterns of one file or option have left; usual matches do not count."""

    left: float = _SECONDS


class Pattern:
    """One regular expression. Two of the same text are equal.

    where   the file or option that the pattern stands in, for errors; "" for none
    error   kind of the error where matching takes too long
    time    shared by the patterns of one file
    raises  ValueError where the text is no regular expression, or one that is too large
    """

    def __init__(
        self, text: str, where: str = "", error: type[LorakitError] = InputError, time: Time | None = None
    ) -> None:
        self.text, self._where, self._error, self._time = text, where, error, time or Time()
        whole = _WHOLE.fullmatch(text)
        self._name = whole[1].replace("\\", "") if whole else None
        begun = thread_time()
        self._compiled: Any = None if whole else _compiled(text)
        self._time.left -= max(0.0, thread_time() - begun - 100 * _USUAL)

    def search(self, name: str) -> bool:
        """Whether the pattern matches somewhere in `name`, as re.search does."""
        if self._name is not None:
            return name.removesuffix("\n") == self._name
        return self._timed(self._compiled.search, name)

    def match(self, name: str) -> bool:
        """Whether the pattern matches at the beginning of `name`, as re.match does."""
        if self._name is not None:
            return self.search(name)
        return self._timed(self._compiled.match, name)

    def _timed(self, ask: Callable[..., Any], name: str) -> bool:
        begun = thread_time()
        try:
            if self._time.left > 0:
                return ask(name, timeout=self._time.left) is not None
        except TimeoutError:
            pass
        finally:
            self._time.left += _USUAL - (thread_time() - begun)
        raise self._error(
            f"{self._where}{': ' if self._where else ''}the pattern '{self.text[:80]}' takes too long to match; write it "
            "without repeats inside repeats"
        )

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


def _compiled(text: str) -> Any:
    if len(text) > _LONGEST:
        raise ValueError(f"it has {len(text)} characters; at most {_LONGEST} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            re.compile(text)
    except re.error as error:
        raise ValueError(str(error)) from None
    except (RecursionError, OverflowError):
        raise ValueError("it is nested too deeply, or repeats too often") from None
    counts = (max((int(n) for n in match.groups() if n), default=1) for match in _COUNTS.finditer(text))
    if prod(max(1, n) for n in counts) > _MOST_COUNTED:
        raise ValueError(f"its counts in braces multiply to more than {_MOST_COUNTED}")
    if _OTHERWISE.search(text):
        raise ValueError("letters in braces, and classes such as [:alpha:], are not read")
    import regex

    try:
        return regex.compile(text, regex.V0)
    except (regex.error, RecursionError) as error:
        raise ValueError(str(error)) from None
