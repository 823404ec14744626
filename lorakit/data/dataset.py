"""A folder to examples, whichever of the common layouts it has."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from lorakit.data.decode import HEIC_SUFFIXES, reads_heic
from lorakit.data.images import SUFFIXES, BadPicture, find, load
from lorakit.errors import InputError
from lorakit.io.inputs import existing_folder, kind_of
from lorakit.io.paths import file_named, leads_out
from lorakit.io.plain import json_object, read_bytes, read_lines

_KOHYA = re.compile(r"^(\d+)_(.+)$")
_TABLE = "metadata.jsonl"
_NOTED = {"written": "file_sha256", "token": "token"}  # what is kept of a row of ppim's, by its key there
_LONGEST = 64 << 10  # bytes of a caption file
_MOST_REPEATS = 1000
_TOO_OFTEN = (
    f"more than {_MOST_REPEATS} repeats an epoch are asked for; name folders NUMBER_NAME only to repeat their pictures, as "
    "10_dog"
)
_MANY = re.compile(r"(\w+)s( that)? (are|have)\b")
_DIRECTIONS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class Example:
    """One training picture.

    captions    one, or several of which each epoch shows one
    repeats     how often an epoch shows it
    mask        grey picture beside it, white where it is to be learnt
    size        upright (width, height), where it was asked for (`measured`)
    written     sha256 of the file as ppim wrote it, "" where that is not known
    token       the word for the subject that ppim wrote into its captions, "" where that is not known
    """

    file: Path
    captions: tuple[str, ...]
    repeats: int = 1
    mask: Path | None = None
    size: tuple[int, int] | None = None
    written: str = ""
    token: str = ""

    @property
    def caption(self) -> str:
        return self.captions[0]


class _Faults:
    """What is wrong, by kind, so that all of it can be told at once."""

    def __init__(self) -> None:
        self._kinds: dict[str, list[str]] = {}

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


def _cleaned(text: str) -> tuple[str, ...]:
    """The lines of a caption, without control characters and marks of writing direction; empty ones left out."""
    kept = (
        "".join(
            c for c in line.replace("\t", " ") if unicodedata.category(c) not in ("Cc", "Cs") and c not in _DIRECTIONS
        ).strip()
        for line in text.splitlines()
    )
    return tuple(dict.fromkeys(line for line in kept if line))


def _is_there(file: Path, what: str, faults: _Faults) -> bool:
    """Whether there is a file; a pipe or a folder in its place is a fault, and is not passed by."""
    kind = kind_of(file)
    if kind not in ("", "a file"):
        faults.add(f"{{n}} {what} are no files; remove what is in their place", f"{file.name} ({kind})")
    return kind == "a file"


def _caption_file(picture: Path, faults: _Faults) -> tuple[str, ...] | None:
    """The captions beside a picture, in NAME.txt or NAME.caption; None where the file is at fault."""
    found: dict[str, tuple[str, ...] | None] = {}
    for suffix in (".txt", ".caption"):
        file = picture.with_suffix(suffix)
        if not kind_of(file):
            continue
        found[suffix] = None
        if not _is_there(file, "caption files", faults):
            continue
        if file.stat().st_size > _LONGEST:
            faults.add("{n} caption files are longer than 64 KB", file.name)
            continue
        try:
            found[suffix] = _cleaned(read_bytes(file, "caption").decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            faults.add("{n} caption files are not UTF-8; save them as UTF-8", f"{file.name} (byte {error.start})")
    if len(set(found.values())) > 1:
        faults.add("{n} pictures have two caption files that differ; keep one", picture.name)
    return next(iter(found.values()), ())


def _rows(table: Path, faults: _Faults) -> dict[Path, dict[str, Any]]:
    """What a metadata.jsonl says of each picture; several rows of one picture give it several captions."""
    rows: dict[Path, dict[str, Any]] = {}
    for number, line in read_lines(table, "table of pictures"):
        if not line.strip():
            continue
        try:
            row = json_object(line)
            file, text = file_named(table.parent, row["file_name"]), row.get("text", row.get("caption")) or ""
            texts = [text] if isinstance(text, str) else [str(one) for one in text]
            repeats = row.get("repeats")
            if repeats is not None and (not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1):
                raise ValueError(repeats)
        except (ValueError, KeyError, TypeError):
            where = f"{table.name}:{number}"
            faults.add("{n} lines are not an object with file_name, text (and repeats, at least 1)", where)
            continue
        if repeats is not None and repeats > _MOST_REPEATS:
            faults.add(_TOO_OFTEN, f"{repeats} times ({table.name}:{number})")
            continue
        if leads_out(row["file_name"]):
            faults.add(
                f"{table.name} has {{n}} names that lead out of the folder; name files below it", f"line {number}"
            )
            continue
        if not file.is_file():
            faults.add(f"{table.name} names {{n}} pictures that are not there; run ppim again", str(row["file_name"]))
            continue
        fresh: dict[str, Any] = {"captions": {}, "repeats": None} | {
            key: str(row.get(of) or "") for key, of in _NOTED.items()
        }
        known = rows.setdefault(file, fresh)
        known["captions"] |= dict.fromkeys(_cleaned("\n".join(texts)))
        known["repeats"] = repeats or known["repeats"]
    return {file: {**row, "captions": tuple(row["captions"])} for file, row in rows.items()}


def _kohya(file: Path, folder: Path, faults: _Faults) -> tuple[int, str]:
    """(repeats, caption) of the nearest folder named as `10_sks dog`, below `folder`."""
    for part in reversed(file.relative_to(folder).parts[:-1]):
        if match := _KOHYA.match(part):
            if (repeats := int(match.group(1))) > _MOST_REPEATS:
                faults.add(_TOO_OFTEN, f"{repeats} times (folder '{part}')")
            return max(1, repeats), match.group(2).strip()
    return 1, ""


def _pictures(folder: Path, faults: _Faults, note: Callable[[str], None]) -> dict[Path, dict[str, Any]]:
    """The pictures to train on and what tables say of them."""
    found = [file for file in find(folder) if not file.name.lower().endswith(".mask.png")]
    tables = [table for table in sorted(folder.rglob(_TABLE)) if _is_there(table, "tables", faults)]
    listed: dict[Path, dict[str, Any]] = {}
    for table in tables:
        listed |= _rows(table, faults)
    covered = {table.parent for table in tables}
    left_out = [f.name for f in found if f not in listed and covered & set(f.parents)]
    if left_out and listed:
        note(
            f"{len(left_out)} pictures are not in {_TABLE} and are left out: {', '.join(left_out[:3])}; run ppim again"
        )
    free: dict[Path, dict[str, Any]] = {file: {} for file in found if not covered & set(file.parents)}
    return dict(sorted({**free, **listed}.items()))


def _none_found(folder: Path) -> InputError:
    others = Counter(file.suffix.lower() for file in folder.rglob("*") if file.is_file() and file.suffix)
    there = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(3))
    kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
    return InputError(f"{folder}: no pictures to train on ({kinds}); there are {there or 'no files'}")


def read(folder: Path, instance_prompt: str | None, note: Callable[[str], None] = lambda text: None) -> list[Example]:
    """The examples of a ppim folder or imagefolder (metadata.jsonl), kohya folders, or pictures with sidecars; nested
    as they may be, and mixed.

    A caption is what stands in NAME.txt or NAME.caption, else in metadata.jsonl, else in the name of a kohya folder.
    An instance prompt replaces all captions, which is noted. InputError lists all that is wrong, not the first.
    """
    existing_folder(folder, "training pictures")
    faults, examples, replaced = _Faults(), list[Example](), 0
    for file, row in _pictures(folder, faults, note).items():
        repeats, named = _kohya(file, folder, faults) if file.is_relative_to(folder) else (1, "")
        own: tuple[str, ...] = ()
        if instance_prompt is None:
            # The sidecar rules over metadata.jsonl: it is what people edit.
            beside = _caption_file(file, faults)
            own = beside or row.get("captions", ()) or _cleaned(named)
            if not own and beside is not None:
                faults.add(
                    "{n} pictures have no caption; write NAME.txt beside each, or give --instance-prompt", file.name
                )
        else:
            sidecars = any(file.with_suffix(suffix).is_file() for suffix in (".txt", ".caption"))
            replaced += sidecars or bool(row.get("captions") or named)
        mask = file.with_name(f"{file.stem}.mask.png")
        captions = own if instance_prompt is None else (instance_prompt,)
        covered = mask if _is_there(mask, "masks", faults) else None
        noted = {key: row.get(key, "") for key in _NOTED}
        examples.append(Example(file, captions, row.get("repeats") or repeats, covered, **noted))
    faults.raise_any(folder)
    if not examples:
        raise _none_found(folder)
    if replaced:
        note(f"--instance-prompt is given: captions of pictures are not read ({replaced})")
    return examples


def size_of(file: Path) -> tuple[int, int] | None:
    """The upright (width, height) a picture's header tells; None where it cannot be read. Decodes nothing."""
    try:
        if not file.is_file():
            return None  # a pipe would be waited for
        if file.suffix.lower() in HEIC_SUFFIXES:
            reads_heic()
        with Image.open(file) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (image.height, image.width) if turned else image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, OverflowError):
        return None


def measured(examples: Sequence[Example]) -> list[Example]:
    """The examples with their sizes; InputError lists the pictures whose size cannot be read."""
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(lambda example: size_of(example.file), examples))
    bad = [f"{e.file.name} ({why_not(e.file)})" for e, size in zip(examples, sizes, strict=True) if size is None]
    if bad:
        raise InputError(unreadable(bad))
    return [replace(example, size=size) for example, size in zip(examples, sizes, strict=True)]


def why_not(file: Path) -> str:
    """Why a picture cannot be read."""
    try:
        load(file)
    except BadPicture as reason:
        return str(reason)
    return "its size cannot be read"


def unreadable(names: Iterable[str]) -> str:
    """What to say of pictures that cannot be read."""
    bad = sorted(names)
    shown = ", ".join(bad[:3]) + (" ..." if len(bad) > 3 else "")
    return f"{len(bad)} picture{'s' * (len(bad) != 1)} cannot be read: {shown}\nrun `lorakit ppim`, or remove them"
