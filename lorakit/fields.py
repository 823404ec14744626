"""What a field of a config says of itself: from its annotation alone its option, its help and its checks are made.

    rank: Annotated[int, "Rank of the low-rank factors.", Bounds(least=1)] = 8

The text is the option's help; the marks after it, all optional, are those below and any that a command reads by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from lorakit.errors import UsageError
from lorakit.registry import nearest


class Bounds(NamedTuple):
    """The numbers that a field may have: from `least` to `most`, and greater than `above`."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf

    def complaint(self, value: float) -> str:
        """What is wrong with a number, after the option's name; "" where it is right."""
        if self.least <= value <= self.most and self.above < value < math.inf:
            return ""
        if self.above > -math.inf:
            return f"must be a number above {self.above:g}, got {value}"
        if self.most < math.inf:
            return f"must be {self.least:g} to {self.most:g}, got {value:g}"
        kind = "" if isinstance(value, int) and isinstance(self.least, int) else "a number of "
        return f"must be {kind}at least {self.least:g}, got {value if isinstance(value, int) else f'{value:g}'}"


class OneOf(NamedTuple):
    """The words that a field may have, which the help lists: a function that gives them, such as a registry's `names`.

    besides   what else is taken, for the help: "a regular expression of module names"
    takes     whether a word that is not listed is such a one
    """

    names: Callable[[], Sequence[str]]
    besides: str = ""
    takes: Callable[[str], bool] = lambda word: False

    def listed(self) -> str:
        """ "adamw, lion or module:Class"."""
        *most, last = [*self.names(), *([self.besides] if self.besides else [])]
        return f"{', '.join(most)} or {last}" if most else last

    def complaint(self, value: str) -> str:
        names = self.names()
        if value in names or self.takes(value):
            return ""
        return f"{value}: no such word{nearest(value, names)} (there are: {', '.join(names)}{f', {self.besides}' if self.besides else ''})"


class Flags(NamedTuple):
    """How the option is spelled, where that is not the field's name: Flags("--count", "-n")."""

    first: str
    second: str = ""


class Metavar(NamedTuple):
    """What stands for the value in the help."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A field of a config and what its annotation says.

    marks     all of them, also those that only one command knows
    default   a list's is None: an option that is not given
    """

    name: str
    kind: Any
    help: str
    marks: tuple[Any, ...]
    default: Any
    many: bool

    def mark(self, kind: type) -> Any:
        """The first mark of this kind, None without one."""
        return next((mark for mark in self.marks if isinstance(mark, kind)), None)

    @property
    def flags(self) -> tuple[str, ...]:
        """As the command line spells it, the long form first."""
        named = self.mark(Flags)
        return tuple(filter(None, named)) if named else (option(self.name),)

    @property
    def told(self) -> str:
        """The help, with the words that there are to choose from."""
        choices = self.mark(OneOf)
        if choices is None:
            return self.help
        return f"{self.help.removesuffix('.')}: {choices.listed()}."


def option(name: str) -> str:
    """A field as its option is spelled: `--lr-schedule`."""
    return f"--{name.replace('_', '-')}"


def declared(config: Any) -> dict[str, Declared]:
    """The fields of a config class that are options, those whose annotation has a text, by name."""
    return _declared_of(config)


@cache
def _declared_of(config: Hashable) -> dict[str, Declared]:
    hints = get_type_hints(config, include_extras=True)
    found = {}
    for field in fields(config):  # type: ignore[arg-type]
        kind, *said = (
            get_args(hints[field.name]) if hasattr(hints[field.name], "__metadata__") else (hints[field.name],)
        )
        if said and isinstance(said[0], str):
            found[field.name] = _declared(field, kind, said)
    return found


def _declared(field: Field[Any], kind: Any, said: Sequence[Any]) -> Declared:
    many = get_origin(kind) is list
    default = None if field.default is MISSING else field.default
    return Declared(name=field.name, kind=kind, help=said[0], marks=tuple(said[1:]), default=default, many=many)


def faults(config: Any) -> list[str]:
    """What of a config's values is out of its bounds or no word of its field's, a line each, by option."""
    wrong = []
    for name, field in declared(type(config)).items():
        value = getattr(config, name)
        checks = [check for check in (field.mark(Bounds), field.mark(OneOf)) if check is not None and value is not None]
        wrong += [f"{field.flags[0]} {said}" for check in checks if (said := check.complaint(value))]
    return wrong


def refuse_faults(config: Any, more: Sequence[str] = ()) -> None:
    """UsageError with all that is wrong with a config: its fields' own faults, and more that is known."""
    wrong = [*faults(config), *more]
    if wrong:
        raise UsageError("\n".join(wrong))
