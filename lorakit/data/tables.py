"""The tables of a folder of pictures: `metadata.jsonl` and `metadata.csv`, a row a picture, as imagefolders have them."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.data.caption_files import lines_of
from lorakit.data.faults import Faults
from lorakit.errors import InputError
from lorakit.io.paths import file_named, leads_out
from lorakit.io.plain import json_object, read_lines

TABLES = ("metadata.jsonl", "metadata.csv")
UNREAD = ("metadata.parquet",)
MOST_REPEATS = 10_000
TOO_OFTEN = (
    f"more than {MOST_REPEATS:,} repeats an epoch are asked for; name folders NUMBER_NAME only to repeat their pictures, as "
    "10_dog"
)


@dataclass(kw_only=True)
class TableRow:
    """What a table says of a picture, where it says anything: captions, repeats, mask (a path below the folder).

    written and token are ppim's: sha256 of the file, and the word for the subject in the captions
    """

    captions: tuple[str, ...] = ()
    repeats: int | None = None
    mask: str = ""
    written: str = ""
    token: str = ""


class NoTable(Exception):
    """A file of a table's name that is a table of something else; why."""


def read_table(folder: Path, path: str, faults: Faults) -> dict[str, TableRow]:
    """The rows of the table at `path` below `folder` by picture, as a path below `folder` too; several rows of one picture
    give it several captions. What is wrong goes to `faults`; NoTable for a table of something else."""
    table, rows = folder / path, dict[str, TableRow]()
    wrong = "{n} lines are not an object with file_name, text (and repeats, at least 1)"
    for number, line in _json(table) if path.endswith(".jsonl") else _csv(table):
        where = f"{table.name}:{number}"
        try:
            if isinstance(line, ValueError):
                raise line
            name = line["file_name"]
            file, text = file_named(table.parent, name), line.get("text", line.get("caption")) or ""
            texts = [text] if isinstance(text, str) else [str(one) for one in text]
            repeats, mask = _whole(line.get("repeats")), line.get("mask") or ""
            if not isinstance(mask, str):
                raise TypeError(mask)
        except (ValueError, KeyError, TypeError):
            faults.add(wrong, where)
            continue
        if repeats is not None and repeats > MOST_REPEATS:
            faults.add(TOO_OFTEN, f"{repeats} times ({where})")
            continue
        if leads_out(name) or (mask and leads_out(mask)):
            faults.add(
                f"{table.name} has {{n}} names that lead out of the folder; name files below it", f"line {number}"
            )
            continue
        if not file.is_file():
            faults.add(f"{table.name} names {{n}} pictures that are not there; run ppim again", str(name))
            continue
        row = rows.setdefault(_below(folder, file), TableRow())
        row.captions = tuple(dict.fromkeys((*row.captions, *lines_of("\n".join(texts)))))
        row.repeats = repeats or row.repeats
        row.mask = _below(folder, file_named(table.parent, mask)) if mask else row.mask
        row.written, row.token = str(line.get("file_sha256") or row.written), str(line.get("token") or row.token)
    return rows


def _below(folder: Path, file: Path) -> str:
    return file.relative_to(folder).as_posix()


def _whole(value: Any) -> int | None:
    """Repeats: None where there are none; ValueError for what is no whole number from 1."""
    if isinstance(value, str):
        value = int(value) if value.strip() else None
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(value)
    return value


def _json(table: Path) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
    for number, line in read_lines(table, "table of pictures"):
        if line.strip():
            try:
                yield number, json_object(line)
            except ValueError as error:
                yield number, error


def _csv(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table that a spreadsheet wrote, whichever of comma, semicolon and tab it puts between cells."""
    at = 0

    def lines() -> Iterator[str]:
        nonlocal at
        for number, line in read_lines(table, "table of pictures"):
            at = number
            yield f"{line}\n"

    given = lines()
    head = next(given, "")
    between = max(",;\t", key=head.count)
    try:
        names = [name.strip().lower() for name in next(csv.reader([head], delimiter=between), [])]
        if "file_name" not in names:
            raise NoTable(f"{table.name} has no column file_name")
        for cells in csv.reader(given, delimiter=between):
            if any(cell.strip() for cell in cells):
                row = dict(zip(names, cells, strict=False))
                yield at, {**row, "file_name": row["file_name"].strip(), "mask": row.get("mask", "").strip()}
    except csv.Error as error:
        raise InputError(f"{table}: line {at} is no row of a table: {error}") from error
