"""Every source picture through the worker processes; then which of them are one and the same."""

import base64
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorakit.data.caption_files import lines_of
from lorakit.data.dataset import loose
from lorakit.data.faults import Faults
from lorakit.data.folder import look
from lorakit.data.looks import Index, Look
from lorakit.data.pictures import PictureFile
from lorakit.data.repeats import AUTO, repeats_of
from lorakit.errors import StorageError
from lorakit.jobs.ppim.keeping import Keeper, digest, mask_file
from lorakit.jobs.ppim.lint import count
from lorakit.jobs.ppim.manifest import Manifest
from lorakit.jobs.ppim.settings import Settings
from lorakit.naming import names, shown
from lorakit.runtime.guarded import Guarded
from lorakit.runtime.workers import cores
from lorakit.talk import Note, Tick

CARRIED = ["carried"]  # the mark of masks that were carried over from RAW
MOST_SHOWN = 1000  # pictures of which the report has small ones, so that it opens whatever the folder's size


@dataclass(slots=True, kw_only=True)
class RawPicture:
    """A picture file below RAW, and what belongs to it.

    key         its path as text
    name        the stem of what is written
    captions    the caption files beside it, below RAW
    told        captions of a table, or of its folder's name
    masks       the masks beside it, below RAW
    repeats     how often an epoch is to show it
    """

    path: str
    key: str
    name: str
    problem: str = ""
    captions: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    repeats: int = 1


def sources(raw: Path, data: Path, note: Note, *, captions: bool) -> list[RawPicture]:
    """All of them in the order of their paths' bytes, which no folder listing or locale changes. What links lead to in
    DATA is none. InputError lists what is wrong with the tables in RAW.

    captions    whether their captions are carried over
    """
    faults = Faults()
    contents = look(raw, faults, places={data: "the training set"})
    often = repeats_of(contents.pictures, AUTO, faults, note)
    faults.raise_any(raw)
    for line in contents.notes:
        note(line)
    pictures = [(one, times) for one, times in zip(contents.pictures, often, strict=True) if times]
    _tell_captions([one for one, _ in pictures], contents.loose, captions, note)
    pictures += [(PictureFile(path=one.path, problem=one.problem), 1) for one in contents.unread]
    pictures.sort(key=lambda pair: os.fsencode(pair[0].path))
    stems = names([one.path for one, _ in pictures])
    return [
        RawPicture(
            path=one.path,
            key=shown(one.path),
            name=stem,
            problem=one.problem,
            captions=one.captions,
            told=_told(one),
            masks=one.masks,
            repeats=times,
        )
        for (one, times), stem in zip(pictures, stems, strict=True)
    ]


def _told(one: PictureFile) -> tuple[str, ...]:
    named = lines_of(one.number.words) if one.number else ()
    return one.row.captions if one.row is not None and one.row.captions else named


def _tell_captions(pictures: list[PictureFile], without: list[str], carried: bool, note: Note) -> None:
    if carried and without:
        note(loose(without))
    if not carried and (given := [one.path for one in pictures if one.captions or (one.row and one.row.captions)]):
        note(f"{count(len(given), 'picture')} with captions that are not read; --caption keep carries them over")


def _known(record: dict[str, Any], source: RawPicture, mark: str) -> bool:
    return record.get("mark") == mark and record.get("name") == source.name and not record.get("again")


def _request(
    source: RawPicture, record: dict[str, Any], mark: str, keeper: Keeper, masks: tuple[str, ...]
) -> dict[str, Any]:
    """What a worker is asked: only to look whether all is as it was, where nothing that it depends on has changed."""
    force = keeper.force
    request: dict[str, Any] = {"path": os.fsencode(source.path).hex(), "name": source.name}
    request["masks"] = [os.fsencode(mask).hex() for mask in masks]
    rows = record.get("rows", ())
    if _known(record, source, mark) and not (force and any("retouched" in row or row.get("left_out") for row in rows)):
        if any(_lacks_mask(row, masks, keeper) for row in rows):
            return request
        request["known"], request["known_mask"] = record.get("sha256"), record.get("mask_source", "")
        request["files"] = {
            row["file_name"]: row.get("retouched") or row["file_sha256"] for row in rows if not row.get("left_out")
        }
    return request


def _lacks_mask(row: dict[str, Any], masks: tuple[str, ...], keeper: Keeper) -> bool:
    """Whether a mask that is carried over has yet to come to its place, was taken away, or is to come back by force."""
    if "carried" in row:
        return True
    if not masks or row.get("left_out"):
        return False
    ours, state = (
        row.get("mask_mark") == CARRIED,
        keeper.state(mask_file(keeper.data / row["file_name"]), row.get("mask_sha256")),
    )
    return (ours and state == "absent") or (keeper.force and not (ours and state == "ours"))


def read(given: list[RawPicture], raw: Path, settings: Settings, keeper: Keeper, tick: Tick, *, anew: bool) -> int:
    """Prepare what is new or changed (all of `given`, where `anew`); gives how many were. Their records are kept."""
    manifest, mark, done, fresh = keeper.manifest, settings.mark(), 0, 0
    at_work: dict[str, RawPicture] = {}

    def requests() -> Iterator[tuple[str, dict[str, Any]]]:
        nonlocal done
        for number, source in enumerate(given):
            if source.problem:
                _take(source, {"reason": source.problem, "again": True}, mark, keeper)
                done += 1
                continue
            at_work[source.key] = source
            masks = source.masks if settings.mask == "none" else ()  # else others are made
            request = _request(source, {} if anew else manifest.get(source.key), mark, keeper, masks)
            yield source.key, {**request, "thumb": number < MOST_SHOWN}

    setup = {
        "wanted": asdict(settings.wanted()),
        "raw": os.fsencode(raw.resolve()).hex(),
        "data": os.fsencode(keeper.data.resolve()).hex(),
        "into": None if keeper.dry_run else os.fsencode(keeper.staging.resolve()).hex(),
    }
    count = max(1, min(settings.workers or cores(), len(given)))
    with Guarded("lorakit.data.worker", setup, count, settings.picture_seconds) as workers:
        for key, answer in workers.answers(requests()):
            source = at_work.pop(key)
            if "storage" in answer:
                raise StorageError(answer["storage"])
            if "bug" in answer:
                raise RuntimeError(f"while {key} was prepared: {answer['bug']}")
            if not answer.get("same"):
                fresh += 1
                _take(source, answer, mark, keeper)
            done += 1
            tick(done, len(given))
    return fresh


# What a row keeps when its picture is made anew: what is known of its caption and mask, and what a person has said of it.
_KEPT = (
    "text",
    "text_before",
    "by_hand",
    "captioned_with",
    "edits",
    "left_out",
    "repeats",
    "mask",
    "mask_before",
    "mask_mark",
    "mask_sha256",
    "mask_share",
    "masked_with",
    "token",
)


def _take(source: RawPicture, answer: dict[str, Any], mark: str, keeper: Keeper) -> None:
    """Put what was prepared of a source into the manifest and then into its place; what a person has changed stays, and
    so does what is no part of the set any more, until --prune."""
    old = keeper.manifest.get(source.key)
    before = {_place(old, row): row for row in (*old.get("former", ()), *old.get("rows", ()))}
    rows: list[dict[str, Any]] = []
    taken: list[str] = []
    coming: list[str] = []
    for row in answer.get("rows", ()):
        name = row["file_name"]
        mine = before.pop(_place(answer | {"name": source.name}, row), {})
        verdict, there = _verdict(keeper, row, mine)
        if verdict == "taken":
            taken.append(name)
        elif verdict == "stays":
            carried = {key: row[key] for key in ("carried",) if key in row}
            rows.append({**mine, **carried, "retouched": there} if there else mine)
        else:
            if verdict == "missing" and (old.get("sha256"), old.get("mark")) == (answer["sha256"], mark):
                keeper.missing.append(name)
            known = {key: mine[key] for key in _KEPT if key in mine}
            rows.append({**row, **known, "file_before": mine.get("file_sha256")})
            coming.append(name)
            if mine:
                keeper.follow(mine, name)
    record = {**answer, "name": source.name, "mark": mark}
    if before:
        record["former"] = list(before.values())
    if rows:
        record["rows"] = rows
    else:
        record.pop("rows", None)
    if taken:
        record |= {"again": True, "notes": [*record["notes"], *map(_in_the_way, taken)]}
        record |= {} if rows else {"reason": _in_the_way(taken[0])}
    keeper.manifest.put(source.key, record)
    for name in coming:
        keeper.move_in(name)


def _place(record: dict[str, Any], row: dict[str, Any]) -> str:
    """Which of a source's pictures a row is of, whatever they are called: "" or the number of the copy."""
    return Path(row["file_name"]).stem.removeprefix(record["name"])


def _verdict(keeper: Keeper, row: dict[str, Any], mine: dict[str, Any]) -> tuple[str, str]:
    """What becomes of a prepared picture: it "comes", is "missing" and comes, another "stays", or its place is "taken";
    and the sha256 of a picture that a person has changed."""
    file = keeper.data / row["file_name"]
    same = not mine or mine["file_name"] == row["file_name"]
    state = keeper.state(file, *((mine.get("file_sha256"), mine.get("file_before")) if same else ()))
    if state == "absent":
        if mine.get("left_out") and not keeper.force:
            return "stays", ""
        return ("missing" if mine and same else "comes"), ""
    there = digest(file)
    if state == "ours" or there == row["file_sha256"] or keeper.may_replace(state):
        return "comes", ""
    return ("stays", there) if state == "changed" else ("taken", "")


def _in_the_way(name: str) -> str:
    return f"another file stands in its place: {name} in the training set is not ppim's; rename it or the source"


def _doubles(given: list[RawPicture], manifest: Manifest) -> dict[str, tuple[str, str]]:
    """Of each picture that is there twice: how it is the same, and as which."""
    size: dict[str, int] = {}
    first: dict[str, str] = {}
    looks: dict[str, Look] = {}
    found = {}
    for source in sorted(given, key=lambda s: (len(s.key), s.key)):  # copies have the longer names: "dog (1).jpg"
        record = manifest.get(source.key)
        if "reason" in record or "look" not in record:
            continue
        if (digest := record["sha256"]) in first:
            found[source.key] = ("the same bytes as", first[digest])
            continue
        first[digest] = source.key
        looks[source.key] = Look(int(record["look"], 16), base64.b85decode(record["colours"]))
        size[source.key] = record["source_size"][0] * record["source_size"][1]
    index, kept = Index(), []
    for key in sorted(looks, key=lambda k: (-size[k], len(k), k)):
        number = index.find(looks[key])
        if number is None:
            index.add(looks[key])
            kept.append(key)
        else:
            found[key] = ("looks the same as", kept[number])
    return found


def settle(given: list[RawPicture], settings: Settings, keeper: Keeper) -> list[RawPicture]:
    """Mark the duplicates, whichever order the pictures were read in; gives those that are taken but not yet written.

    Of pictures with the same bytes the one with the shortest name stays, of those that look alike the largest.
    """
    manifest = keeper.manifest
    doubles = _doubles(given, manifest) if settings.dedup else {}
    lacking = []
    for source in given:
        record = manifest.get(source.key)
        before = record.pop("duplicate_of", None), record.pop("duplicate_how", None)
        if source.key in doubles:
            if rows := [*record.get("former", ()), *record.pop("rows", ())]:
                record["former"] = rows
            record["duplicate_how"], record["duplicate_of"] = doubles[source.key]
        elif "reason" not in record and not record.get("rows"):
            lacking.append(source)
        if before != (record.get("duplicate_of"), record.get("duplicate_how")):
            manifest.put(source.key, record)
    return lacking
