"""TOML files that people write, and the line that each key stands in, so that an error can name it."""

from __future__ import annotations

import json
import re
import tomllib
from bisect import bisect
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lorakit.errors import InputError
from lorakit.io.plain import read_bytes, toml_of

Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """The tables of a TOML file, and where their keys stand."""

    file: Path
    tables: dict[str, Any]
    text: str

    @cached_property
    def lines(self) -> dict[Keys, int]:
        """The line, from 1, of each key: ("train", "rank"), or ("adapter", 0, "path") in a list of tables."""
        return lines_of(self.text)

    def place(self, *keys: str | int) -> str:
        """Returns `FILE, line N` for a key, for the beginning of an error; `FILE` where the line cannot be told."""
        line = self.lines.get(keys)
        return str(self.file) if line is None else f"{self.file}, line {line}"


def read(path: str | Path, what: str) -> Document:
    """Reads a file as TOML; `what` names its purpose in errors.

    UTF-8, with or without a byte order mark. InputError, with the file and the line, for a file that is missing, no
    regular file, too large, in another encoding, or not TOML.
    """
    file = Path(path)
    return parse(_decoded(read_bytes(file, what), file), file, what)


def parse(text: str, file: Path, what: str) -> Document:
    """Reads a text as TOML; InputError, which names `file`, where it is not."""
    try:
        tables = toml_of(text)
    except ValueError as error:
        hint = "; write a path with backslashes in single quotes" if "\\" in str(error) or "hex" in str(error) else ""
        raise InputError(f"{file}: not a {what}: {error}{hint}") from error
    return Document(file, tables, text)


def text_of(value: Any) -> str:
    """Returns a text, number, flag or list as TOML spells it: as JSON does, but for the delete character."""
    return json.dumps(value, ensure_ascii=False, default=str).replace("\x7f", "\\u007f")


def _decoded(data: bytes, file: Path) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{file} is UTF-16 text; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file}, line {line} is not UTF-8 text; save the file as UTF-8") from error


_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEY = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*")
_BETWEEN = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_STRING = re.compile(r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*\'''', re.DOTALL)
_WORD = re.compile(r"[^,\]}#\n]+")


def lines_of(text: str) -> dict[Keys, int]:
    """Returns the line of each key of a text that is TOML; none at all where the walk meets what it does not expect."""
    try:
        return _Scan(text).lines
    except (AttributeError, IndexError, RecursionError, TypeError, ValueError):
        return {}


class _Scan:
    """One walk through a text that tomllib has accepted, which notes where keys stand and skips values."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines: dict[Keys, int] = {}
        self._breaks = [match.start() for match in re.finditer("\n", text)]
        self._elements: dict[Keys, int] = {}  # of each list of tables, how many have begun
        at = self._skip(0)
        table: Keys = ()
        while at < len(text):
            if text[at] == "[":
                at, table = self._head(at)
            else:
                at = self._pair(at, table)
            at = self._skip(at)

    def _skip(self, at: int) -> int:
        return _BETWEEN.match(self.text, at).end()  # type: ignore[union-attr]

    def _note(self, keys: Keys, at: int) -> None:
        self.lines.setdefault(keys, bisect(self._breaks, at) + 1)

    def _key(self, at: int, table: Keys) -> tuple[int, Keys]:
        """The end of a key, and its names below `table`, all noted."""
        match = _KEY.match(self.text, at)
        inner: Any = tomllib.loads(f"{match[0]} = 0")  # type: ignore[index]
        keys = table
        while isinstance(inner, dict):
            ((name, inner),) = inner.items()
            keys = (*keys, name)
            self._note(keys, at)
            if inner and keys in self._elements:
                keys = (*keys, self._elements[keys] - 1)
        return match.end(), keys  # type: ignore[union-attr]

    def _head(self, at: int) -> tuple[int, Keys]:
        several = self.text.startswith("[[", at)
        begin = self._skip(at + 1 + several)
        end, table = self._key(begin, ())
        if several:
            self._elements[table] = self._elements.get(table, 0) + 1
            table = (*table, self._elements[table] - 1)
            self._note(table, begin)
        return self.text.index("]", end) + 1 + several, table

    def _pair(self, at: int, table: Keys) -> int:
        at, keys = self._key(at, table)
        return self._value(self._skip(self.text.index("=", at) + 1), keys)

    def _value(self, at: int, keys: Keys) -> int:
        """The end of a value; keys of inline tables in it are noted."""
        opened = self.text[at]
        if opened not in "[{":
            return (_STRING.match(self.text, at) or _WORD.match(self.text, at)).end()  # type: ignore[union-attr]
        at, number = self._skip(at + 1), 0
        while self.text[at] not in "]}":
            at = self._pair(at, keys) if opened == "{" else self._value(at, (*keys, number))
            at, number = self._skip(at), number + 1
            if self.text[at] == ",":
                at = self._skip(at + 1)
        return at + 1
