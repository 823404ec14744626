"""Captions that lie beside raw pictures, read strictly: a wrong coding is named and not guessed at."""

import codecs
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from lorakit.io.inputs import kind_of

_SUFFIXES = (".txt", ".TXT", ".caption")
_MOST_BYTES = 65536
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class BadCaption(Exception):
    """Why the caption beside a picture cannot be used, in a few words."""


@dataclass(frozen=True)
class Text:
    """A caption on one line, and what was done to make it so."""

    text: str
    notes: list[str] = field(default_factory=list)


def _decode(data: bytes, name: str, encoding: str) -> str:
    known = next((coding for mark, coding in _MARKS if data.startswith(mark)), encoding or "utf-8")
    try:
        return data.decode(known)
    except UnicodeDecodeError as error:
        guess = "cp1252" if not encoding else "utf-8"
        raise BadCaption(
            f"its caption {name} is not {known} (byte {error.start}); save it as UTF-8, or try --caption-encoding {guess}"
        ) from error
    except LookupError as error:
        raise BadCaption(f"no coding '{encoding}' to read {name} in") from error


def one_line(text: str) -> Text:
    """Lines joined by ", ", control and direction characters left out; both are noted."""
    notes = []
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        notes.append(f"its caption's {len(lines)} lines were joined")
    joined = ", ".join(line.rstrip(",") for line in lines)
    plain = "".join(c if unicodedata.category(c) not in ("Cc", "Cf", "Cs") or c == "\u200d" else " " for c in joined)
    if plain != joined:
        notes.append("control characters were taken out of its caption")
    return Text(" ".join(plain.split()), notes)


def beside(picture: Path, encoding: str = "") -> Text:
    """The caption beside a picture (`x.txt`, `x.caption`, `x.jpg.txt`); "" where there is none.

    BadCaption where it is too long, in another coding, or two captions differ.
    """
    found: dict[str, Text] = {}
    for suffix in _SUFFIXES:
        for file in (picture.with_suffix(suffix), picture.with_name(picture.name + suffix)):
            kind = kind_of(file)
            if not kind:
                continue
            if kind != "a file":
                raise BadCaption(f"its caption {file.name} is not a file but {kind}")
            if file.stat().st_size > _MOST_BYTES:
                raise BadCaption(f"its caption {file.name} has {file.stat().st_size} bytes; {_MOST_BYTES} are enough")
            found.setdefault(file.name, one_line(_decode(file.read_bytes(), file.name, encoding)))
    distinct = {text.text for text in found.values()}
    if len(distinct) > 1:
        raise BadCaption(f"its captions {' and '.join(sorted(found))} differ; keep one")
    return next(iter(found.values()), Text(""))
