"""Adapter arguments as people write them, `PATH[:WEIGHT]`. Standard library only: a wrong path is told at once."""

import re
from collections.abc import Iterable
from pathlib import Path

from lorakit.errors import InputError

_WEIGHT = re.compile(r"^(.+):([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)$")


def split(argument: str) -> tuple[str, float]:
    """(path, weight): only a trailing `:number` is a weight, and not where a file of the whole name exists."""
    match = _WEIGHT.match(argument)
    if match is None or Path(argument).exists():
        return argument, 1.0
    return match.group(1), float(match.group(2))


def check_adapters(arguments: Iterable[str]) -> None:
    """InputError that names every adapter that is not there."""
    missing = [path for path, _ in map(split, arguments) if not Path(path).exists()]
    if missing:
        raise InputError(f"no such adapter file: {', '.join(missing)}")
