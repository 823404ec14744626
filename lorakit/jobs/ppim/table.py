"""metadata.jsonl: the rows that ppim writes, one a picture, and what a person has changed in them since."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.data.caption_files import tidy
from lorakit.errors import InputError, some
from lorakit.io.files import replacing
from lorakit.jobs.ppim.keeping import Keeper, caption_file, caption_in, digest, is_odd
from lorakit.jobs.ppim.manifest import WHOLE, Manifest
from lorakit.jobs.ppim.reading import RawPicture

FILE = "metadata.jsonl"
# What the manifest needs to know of a row and nobody else.
_PRIVATE = frozenset(
    {
        "captioned_with",
        "carried",
        "edits",
        "file_before",
        "left_out",
        "mask_before",
        "mask_mark",
        "mask_sha256",
        "masked_with",
        "retouched",
        "text_before",
        "thumb",
    }
)


def rows(given: Iterable[RawPicture], manifest: Manifest) -> Iterator[dict[str, Any]]:
    """The rows of the set as ppim makes them, one a picture to train on."""
    for source in given:
        record = manifest.get(source.key)
        yield from (_written(source.key, record, row) for row in record.get("rows", ()) if not row.get("left_out"))


def _edited(key: str, record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of one source as they stand in metadata.jsonl, with what a person has changed."""
    for row in record.get("rows", ()):
        if not row.get("left_out"):
            edits = row.get("edits", {"set": {}, "drop": []})
            whole = {**_written(key, record, row), **edits["set"]}
            yield {name: value for name, value in whole.items() if name not in edits["drop"]}


def _written(key: str, record: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """A line as ppim writes it, without what a person has changed."""
    shared = {"source": key, "sha256": record["sha256"], "format": record["format"], "verdict": "taken"}
    whole = {"file_name": row["file_name"], "text": row["text"], **shared, **row, "settings": record["mark"]}
    whole["notes"] = [*record["notes"], *record.get("caption_notes", ()), *row["notes"]]
    return {name: value for name, value in whole.items() if name not in _PRIVATE}


@dataclass(frozen=True)
class Arrangement:
    """The lines of a metadata.jsonl that a person has arranged: (picture, line) in its order, where the picture is "" for
    a line that is none of ppim's. `ordered` says that ppim's own lines or the person's stand where ppim would not put
    them."""

    lines: tuple[tuple[str, str], ...] = ()
    ordered: bool = False

    @property
    def own(self) -> list[str]:
        return [line for name, line in self.lines if not name]


def take_edits(given: list[RawPicture], keeper: Keeper) -> Arrangement:
    """Put into the manifest what a person has changed in metadata.jsonl since it was written: values, lines taken out,
    the order of the lines; with `force` it is forgotten, but for lines that are the person's own.

    InputError lists the lines that are no JSON objects with a file_name.
    """
    file, whole = keeper.data / FILE, keeper.manifest.get(WHOLE)
    if keeper.force:
        _forget(keeper)
    if is_odd(file) or not file.is_file():
        return Arrangement()
    edited = digest(file) not in whole.get("files", {}).get(FILE, ())
    if not edited and not whole.get("arranged"):
        return Arrangement()
    ours = {row["file_name"]: source for source in keeper.manifest.sources() for row in _rows(keeper, source)}
    lines, found = _read(file, ours, keeper.force)
    if edited and not keeper.force:
        for name, row in found.items():
            _take(keeper, ours[name], name, row)
        if found or any(not name for name, _ in lines):
            _leave_out(keeper, found, set(whole.get("gone", ())))
    default = [row["file_name"] for source in given for row in _rows(keeper, source.key) if row["file_name"] in found]
    there = {"", *default}
    order = [name for name, _ in lines if name in there]
    ordered = not keeper.force and order != [*default, *[""] * order.count("")]
    return Arrangement(tuple(lines) if ordered or "" in order else (), ordered)


def _rows(keeper: Keeper, source: str) -> list[dict[str, Any]]:
    record = keeper.manifest.get(source)
    return [*record.get("rows", ()), *record.get("former", ())]


def _forget(keeper: Keeper) -> None:
    for source in sorted(keeper.manifest.sources()):
        record = keeper.manifest.get(source)
        changed = [row for row in record.get("rows", ()) if "edits" in row or "left_out" in row]
        for row in changed:
            row.pop("edits", None)
            row.pop("left_out", None)
        if changed:
            keeper.manifest.put(source, record)


def _read(file: Path, ours: Mapping[str, str], force: bool) -> tuple[list[tuple[str, str]], dict[str, dict[str, Any]]]:
    """((picture, line) in order, the first line of each picture of ours)."""
    lines: list[tuple[str, str]] = []
    found: dict[str, dict[str, Any]] = {}
    bad = []
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as opened:
        for number, line in enumerate(opened, 1):
            text = line.rstrip("\r\n")
            if not text.strip():
                continue
            try:
                row = json.loads(text)
                name = row["file_name"]
                json.dumps([text, row], ensure_ascii=False).encode()  # text that is no UTF-8 cannot be kept
            except (ValueError, KeyError, TypeError, RecursionError):
                bad.append(str(number))
                continue
            mine = isinstance(name, str) and name in ours and name not in found
            lines.append((name if mine else "", text))
            if mine:
                found[name] = row
    if bad and not force:
        raise InputError(
            f"{file}: no JSON object with a file_name, in UTF-8, in line {some(bad, 5)}; mend it, or write the table anew "
            "with --force"
        )
    return lines, found


def _take(keeper: Keeper, source: str, name: str, now: Mapping[str, Any]) -> None:
    """Put what a person has changed in one line into the manifest; a changed caption becomes the caption file's."""
    record = keeper.manifest.get(source)
    row = next((one for one in record.get("rows", ()) if one["file_name"] == name), None)
    if row is None:
        return
    versions = (record, keeper.manifest.told(source), keeper.manifest.finished(source))
    known = [_written(source, of, one) for of in versions for one in of.get("rows", ()) if one["file_name"] == name]
    changed = {key: value for key, value in now.items() if all(one.get(key, _NOTHING) != value for one in known)}
    drop = sorted(key for key in known[0] if key not in now and all(key in one for one in known))
    before = json.dumps(row, sort_keys=True)
    row.pop("left_out", None)
    texts = changed.get("text")
    texts = texts if isinstance(texts, list) else [texts]
    if "text" in changed and all(isinstance(one, str) for one in texts):
        as_ours = _take_text(keeper, name, row, "\n".join(texts))
        if as_ours and isinstance(changed["text"], str):
            del changed["text"]
    row["edits"] = {"set": changed, "drop": drop}
    if not changed and not drop:
        del row["edits"]
    if json.dumps(row, sort_keys=True) != before:
        keeper.manifest.put(source, record)


_NOTHING = object()


def forget_text(row: dict[str, Any]) -> None:
    """Forget what a person has said of the caption in metadata.jsonl, where the caption's file says another since."""
    edits = row.get("edits")
    if edits and edits["set"].pop("text", None) is not None and not edits["set"] and not edits["drop"]:
        del row["edits"]


def _take_text(keeper: Keeper, name: str, row: dict[str, Any], text: str) -> bool:
    """Write a caption that a person has put into metadata.jsonl into the file beside the picture, which training reads.
    Gives whether the line may be as ppim writes it: where it says the same to the letter, or the file was changed too."""
    file = caption_file(keeper.data / name)
    there, plain = caption_in(file), tidy(text)
    if there not in (None, row["text"], row.get("text_before"), plain):
        keeper.say(f"{file.name} and its line in {FILE} were both changed; {file.name} counts")
        return True
    if not is_odd(file) and there != plain:
        keeper.write(file, (text.strip() + "\n").encode() if plain else b"")
    row |= {"text": plain, "by_hand": True}
    return plain == text.strip() or "\n" not in text.strip()


def _leave_out(keeper: Keeper, found: Mapping[str, Any], gone: set[str]) -> None:
    """Mark the pictures whose lines a person has taken out."""
    for source in sorted(keeper.manifest.sources() - gone):
        told = {row["file_name"] for row in keeper.manifest.told(source).get("rows", ())}
        record = keeper.manifest.get(source)
        missing = [
            row
            for row in record.get("rows", ())
            if row["file_name"] in told and row["file_name"] not in found and not row.get("left_out")
        ]
        for row in missing:
            row["left_out"] = True
        if missing:
            keeper.manifest.put(source, record)


def write(given: list[RawPicture], gone: list[str], keeper: Keeper, arranged: Arrangement) -> int:
    """Write metadata.jsonl; gives how many of its lines are ppim's."""
    file = keeper.data / FILE
    for source in given:
        for row in keeper.manifest.get(source.key).get("rows", ()):
            if row.get("left_out"):
                keeper.left_out.append(row["file_name"])
            elif "edits" in row:
                keeper.stays("rows", row["file_name"])
            if "retouched" in row:
                keeper.stays("pictures", row["file_name"])
    written = 0
    if keeper.dry_run:
        return sum(1 for _ in rows(given, keeper.manifest))
    with replacing(file) as partial:
        with partial.open("w", encoding="utf-8", newline="\n") as out:
            for line, ours in _lines(given, keeper.manifest, arranged):
                out.write(line + "\n")
                written += ours
        keeper.recorded(FILE, digest(partial), arranged=bool(arranged.lines), gone=gone)
    return written


def _lines(given: list[RawPicture], manifest: Manifest, arranged: Arrangement) -> Iterator[tuple[str, bool]]:
    """(line, is it ppim's?): where a person has ordered them the known ones in that order, and new ones after them."""
    done = set()
    if arranged.ordered:
        where = {row["file_name"]: source.key for source in given for row in manifest.get(source.key).get("rows", ())}
        for name, line in arranged.lines:
            if not name:
                yield line, False
                continue
            for row in _edited(where[name], manifest.get(where[name])) if name in where else ():
                if row["file_name"] == name:
                    done.add(name)
                    yield json.dumps(row, ensure_ascii=False), True
    for source in given:
        for row in _edited(source.key, manifest.get(source.key)):
            if row["file_name"] not in done:
                yield json.dumps(row, ensure_ascii=False), True
    if not arranged.ordered:
        yield from ((line, False) for line in arranged.own)
