"""Captions that lie beside pictures, read strictly: a wrong coding is named and not guessed at."""

import codecs
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lorakit.data.beside import captioned, owners
from lorakit.io.inputs import kind_of

_MOST_BYTES = 64 << 10
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_DIRECTIONS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class BadCaption(Exception):
    """Why the caption beside a picture cannot be used, in a few words.

    kind    the same for all that have this fault, with {n} for their number
    name    the file that has it
    """

    def __init__(self, text: str, kind: str = "", name: str = "") -> None:
        super().__init__(text)
        self.kind, self.name = kind, name


@dataclass(frozen=True)
class Caption:
    """A caption, or several with a line each, and what was done to make it so."""

    text: str
    notes: list[str] = field(default_factory=list)


def _decode(data: bytes, name: str, encoding: str) -> str:
    known = next((coding for mark, coding in _MARKS if data.startswith(mark)), encoding or "utf-8")
    try:
        return data.decode(known)
    except UnicodeDecodeError as error:
        guess = "cp1252" if not encoding else "utf-8"
        raise BadCaption(
            f"its caption {name} is not {known} (byte {error.start}); save it as UTF-8, or try --caption-encoding {guess}",
            "{n} caption files are not UTF-8; save them as UTF-8",
            f"{name} (byte {error.start})",
        ) from error
    except LookupError as error:
        raise BadCaption(f"no coding '{encoding}' to read {name} in") from error


def lines_of(text: str) -> tuple[str, ...]:
    """The captions in a text, one a line, without control characters and marks of writing direction; each once, empty
    ones left out."""
    kept = (
        "".join(
            c for c in line.replace("\t", " ") if unicodedata.category(c) not in ("Cc", "Cs") and c not in _DIRECTIONS
        ).strip()
        for line in text.splitlines()
    )
    return tuple(dict.fromkeys(line for line in kept if line))


def _plain(line: str) -> str:
    return "".join(c if unicodedata.category(c) not in ("Cc", "Cf", "Cs") or c == "\u200d" else " " for c in line)


_CLEANED = "control characters were taken out of its caption"


def one_line(text: str) -> Caption:
    """Lines joined by ", ", control and direction characters left out; both are noted."""
    notes = []
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        notes.append(f"its caption's {len(lines)} lines were joined")
    joined = ", ".join(line.rstrip(",") for line in lines)
    plain = _plain(joined)
    return Caption(" ".join(plain.split()), [*notes, *[_CLEANED] * (plain != joined)])


def tidy(text: str) -> str:
    """A caption or several, a line each, without blanks that say nothing."""
    return "\n".join(found for line in text.splitlines() if (found := " ".join(line.split())))


def line_by_line(text: str) -> Caption:
    """The same for each line, which is a caption of its own; each once, empty ones left out."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    plain = [_plain(line) for line in lines]
    kept = dict.fromkeys(found for line in plain if (found := " ".join(line.split())))
    return Caption("\n".join(kept), [_CLEANED] * (plain != lines))


def agreed(files: Sequence[Path], encoding: str = "") -> str:
    """The text of the files beside one picture, which all say the same; "" where there are none.

    BadCaption where one is no file, too long or in another coding, or two of them differ.
    """
    found: dict[str, str] = {}
    for file in files:
        if (kind := kind_of(file)) != "a file":
            raise BadCaption(
                f"its caption {file.name} is not a file but {kind or 'a link that leads nowhere'}",
                "{n} caption files are no files; remove what is in their place",
                f"{file.name} ({kind or 'a link that leads nowhere'})",
            )
        if (size := file.stat().st_size) > _MOST_BYTES:
            raise BadCaption(
                f"its caption {file.name} has {size} bytes; {_MOST_BYTES} are enough",
                "{n} caption files are longer than 64 KB",
                file.name,
            )
        try:
            found[file.name] = _decode(file.read_bytes(), file.name, encoding)
        except OSError as error:
            raise BadCaption(
                f"its caption {file.name} cannot be read: {error.strerror}",
                "{n} caption files cannot be read",
                file.name,
            ) from error
    if len({lines_of(text) for text in found.values()}) > 1:
        names = " and ".join(sorted(found))
        raise BadCaption(
            f"its captions {names} differ; keep one", "{n} pictures have two caption files that differ; keep one", names
        )
    return next(iter(found.values()), "")


def files_beside(picture: Path) -> list[Path]:
    """The caption files of one picture."""
    try:
        names = os.listdir(picture.parent)
    except OSError:
        return []
    beside = {name: of for name in sorted(names) if (of := captioned(name)) is not None}
    return [picture.with_name(name) for name in owners([picture.name], beside).get(picture.name, ())]
