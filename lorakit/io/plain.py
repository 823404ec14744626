"""Text, JSON and TOML out of files that nobody vouches for: regular files alone, of bounded size, depth and numbers.

Of two equal keys in JSON the last counts, as in every program that reads these files, and NaN is a number: whoever uses
a value checks it. Standard library only.
"""

import io
import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorakit.errors import InputError
from lorakit.io.inputs import open_to_read

_MOST_BYTES = 4 << 20
_MOST_TABLE = 1 << 30
_LONGEST_LINE = 1 << 20
_DEEPEST = 64
_MOST_DIGITS = 300  # a float has no more

# tomllib's time grows with the square of the parts of a dotted key. Strings and comments are passed over.
_KEYS = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+"""|'
    r"'''(?:[^']|'(?!''))*+'''|"
    r'"(?:[^"\\\n]|\\.)*+"|'
    r"'[^'\n]*+'|#[^\n]*+|(?P<dot>\.)|(?P<end>[^\w\"'#.+ \t-]++)|[\w+ \t-]++",
    re.DOTALL,
)
_MOST_PARTS = 16


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


def read_lines(path: str | Path, what: str) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of a file's lines, one held at a time; InputError for one over a million characters."""
    with os.fdopen(open_to_read(path, what), "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > _MOST_TABLE:
            raise InputError(f"{path} has {size:,} bytes; of {what} at most {_MOST_TABLE:,} are read")
        text = io.TextIOWrapper(file, encoding="utf-8-sig")
        try:
            yield from bounded_lines(text, str(path))
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8") from error
        except OSError as error:
            raise InputError(f"{path}: {what} could not be read: {error.strerror or error}") from error


def bounded_lines(stream: Any, name: str) -> Iterator[tuple[int, str]]:
    """(number from 1, text without its end) of a text stream's lines as they come; InputError for one that is too long."""
    number = 0
    while line := stream.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            raise InputError(f"{name}: line {number} has more than {_LONGEST_LINE:,} characters")
        yield number, line.rstrip("\r\n")


def json_of(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError that goes on after "it is"... for what is none, or too deep."""
    try:
        value = json.loads(text, parse_int=_whole)
        return _checked(value) if isinstance(value, dict | list) else value
    except RecursionError:
        raise _too_deep() from None


def json_object(text: str | bytes) -> dict[str, Any]:
    """The same for an object."""
    value = json_of(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {_kind(value)}")
    return value


def read_json(path: str | Path, what: str, most: int = _MOST_BYTES) -> dict[str, Any]:
    """The object in a JSON file; InputError that names the file."""
    try:
        return json_object(read_bytes(path, what, most))
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error


def toml_of(text: str) -> dict[str, Any]:
    """The tables of a TOML text; ValueError with the line for what is none, or too deep."""
    _check_keys(text)
    try:
        return _checked(tomllib.loads(text.removeprefix("\ufeff")), numbers=True)
    except RecursionError:
        raise _too_deep() from None


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _checked(value: Any, numbers: bool = False) -> Any:
    """The value, where it is not too deep and, with `numbers`, no whole number is too large to be a float."""
    level = [value]
    for _ in range(_DEEPEST):
        inside = (one.values() if isinstance(one, dict) else one for one in level)
        members = [member for many in inside for member in many if isinstance(member, dict | list | int)]
        if numbers and any(isinstance(member, int) and abs(member) >= 10**_MOST_DIGITS for member in members):
            raise ValueError(f"a number of more than {_MOST_DIGITS} digits")
        level = [member for member in members if not isinstance(member, int)]
        if not level:
            return value
    raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"nested more than {_DEEPEST} deep")


def _check_keys(text: str) -> None:
    parts = 0
    for match in _KEYS.finditer(text):
        if match.lastgroup == "end":
            parts = 0
        elif match.lastgroup == "dot":
            parts += 1
            if parts > _MOST_PARTS:
                line = text.count("\n", 0, match.start()) + 1
                raise ValueError(f"a key of more than {_MOST_PARTS} parts (at line {line})")


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", bool: "true or false", type(None): "nothing"}.get(type(value), "a number")
