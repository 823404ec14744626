"""What is wrong with a training set, gathered by kind, so that all of it can be told at once."""

import re
from pathlib import Path

from lorakit.errors import InputError

_MANY = re.compile(r"(\w+)s( that)? (are|have)\b")


class Faults:
    def __init__(self) -> None:
        self._kinds: dict[str, list[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def add(self, kind: str, name: str) -> None:
        names = self._kinds.setdefault(kind, [])
        if name not in names[-1:]:  # a folder's name comes with each of its pictures
            names.append(name)

    def raise_any(self, folder: Path) -> None:
        """InputError with a line for each kind; `kind` has a {n} and ends in what to do after a semicolon."""
        lines = []
        for kind, names in self._kinds.items():
            what, _, remedy = kind.partition("; ")
            if len(names) == 1:
                what = _MANY.sub(lambda m: f"{m[1]}{m[2] or ''} {'is' if m[3] == 'are' else 'has'}", what, count=1)
            shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
            lines.append(f"{what.format(n=len(names))}: {shown}" + (f"; {remedy}" if remedy else ""))
        if lines:
            rest = [f"and {len(lines) - 3} more kinds of faults"] * (len(lines) > 4)
            raise InputError("\n".join([f"{folder}: {lines[0]}", *lines[1 : 3 if rest else 4], *rest]))
