"""Every source picture through the worker processes; then which of them are one and the same."""

import base64
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorakit.data.looks import Index, Look
from lorakit.data.naming import names, shown
from lorakit.data.walk import walk
from lorakit.errors import StorageError
from lorakit.jobs.ppim.manifest import Manifest
from lorakit.jobs.ppim.settings import Settings
from lorakit.runtime.guarded import Guarded
from lorakit.runtime.workers import cores

Tick = Callable[[int, int], None]
MOST_SHOWN = 1000  # pictures of which the report has small ones, so that it opens whatever the folder's size


@dataclass(slots=True)
class Source:
    """A picture file below RAW. `key` is its path as text; `name` the stem of what is written."""

    path: str
    key: str
    name: str
    problem: str = ""
    outside: bool = False


def sources(raw: Path, data: Path) -> list[Source]:
    """All of them in the order of their paths' bytes, which no folder listing or locale changes. What links lead to in
    DATA is none."""
    found = sorted(walk(raw, data), key=lambda f: os.fsencode(f.path))
    stems = names([f.path for f in found])
    return [Source(f.path, shown(f.path), stem, f.problem, f.outside) for f, stem in zip(found, stems, strict=True)]


def _known(record: dict[str, Any], source: Source, mark: str) -> bool:
    return record.get("mark") == mark and record.get("name") == source.name and not record.get("again")


def _request(source: Source, record: dict[str, Any], mark: str) -> dict[str, Any]:
    request: dict[str, Any] = {"path": os.fsencode(source.path).hex(), "name": source.name}
    if _known(record, source, mark):
        request["known"] = record.get("sha256")
        request["files"] = {row["file_name"]: row["file_sha256"] for row in record.get("rows", ())}
    return request


def read(
    given: list[Source], raw: Path, data: Path, settings: Settings, manifest: Manifest, tick: Tick, *, anew: bool
) -> int:
    """Prepare what is new or changed (all of `given`, where `anew`); gives how many were. Their records are kept."""
    mark, done, fresh = settings.mark(), 0, 0
    at_work: dict[str, Source] = {}

    def requests() -> Iterator[tuple[str, dict[str, Any]]]:
        nonlocal done
        for number, source in enumerate(given):
            if source.problem:
                manifest.put(source.key, {"name": source.name, "reason": source.problem, "again": True})
                done += 1
                continue
            at_work[source.key] = source
            request = _request(source, {} if anew else manifest.get(source.key), mark)
            yield source.key, {**request, "thumb": number < MOST_SHOWN}

    setup = {
        "wanted": asdict(settings.wanted()),
        "raw": os.fsencode(raw.resolve()).hex(),
        "data": os.fsencode(data.resolve()).hex(),
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
                old = manifest.get(key)
                manifest.put(key, _carried(answer, old) | {"name": source.name, "mark": mark})
                _forget(data, old, answer)
            done += 1
            tick(done, len(given))
    return fresh


def _carried(answer: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """The new record with the old one's captions, by which an edited file is told from one that we wrote."""
    before = {row["file_name"]: row for row in old.get("rows", ())}
    for row in answer.get("rows", ()):
        if row["file_name"] in before:
            row |= {
                key: value for key, value in before[row["file_name"]].items() if key in ("text", "by_hand", "token")
            }
    return answer


def _forget(data: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Files made of this source before, under names that it has no more."""
    kept = {row["file_name"] for row in new.get("rows", ())}
    for row in old.get("rows", ()):
        if row["file_name"] not in kept:
            remove(data, row, keep_text=any(Path(k).stem == Path(row["file_name"]).stem for k in kept))


def remove(data: Path, row: dict[str, Any], *, keep_text: bool = False) -> None:
    """The files of one row."""
    file = data / row["file_name"]
    files = [file, file.with_suffix(".mask.png"), *([] if keep_text else [file.with_suffix(".txt")])]
    for one in files:
        with suppress(OSError):
            one.unlink()


def _doubles(given: list[Source], manifest: Manifest) -> dict[str, tuple[str, str]]:
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


def settle(given: list[Source], data: Path, settings: Settings, manifest: Manifest) -> list[Source]:
    """Mark the duplicates, whichever order the pictures were read in; gives those that are taken but not yet written.

    Of pictures with the same bytes the one with the shortest name stays, of those that look alike the largest.
    """
    doubles = _doubles(given, manifest) if settings.dedup else {}
    lacking = []
    for source in given:
        record = manifest.get(source.key)
        before = record.pop("duplicate_of", None), record.pop("duplicate_how", None)
        if source.key in doubles:
            for row in record.pop("rows", ()):
                remove(data, row)
            record["duplicate_how"], record["duplicate_of"] = doubles[source.key]
        elif "reason" not in record and not record.get("rows"):
            lacking.append(source)
        if before != (record.get("duplicate_of"), record.get("duplicate_how")):
            manifest.put(source.key, record)
    return lacking
