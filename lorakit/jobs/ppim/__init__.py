"""A folder of pictures to a training set; only what is new or changed is done again."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lorakit.data.faces import need_opencv
from lorakit.data.images import SUFFIXES
from lorakit.errors import InputError, RefusedError, some
from lorakit.io.files import check_place, existing_folder, replacing
from lorakit.jobs.ppim import finishing, lint, reading
from lorakit.jobs.ppim.manifest import FILE as MANIFEST
from lorakit.jobs.ppim.manifest import JOURNAL, Manifest, known
from lorakit.jobs.ppim.reading import Source
from lorakit.jobs.ppim.settings import Settings, native
from lorakit.reports import training_set
from lorakit.runtime.locks import held, is_lock

__all__ = ["Settings", "known", "native", "run"]
Note = Callable[[str], None]
Tick = Callable[[int, int], None]
_PRIVATE = ("mask_mark", "mask_sha256", "thumb")


def _check(raw: Path, data: Path, force: bool) -> None:
    existing_folder(raw, "pictures")
    real = raw.resolve()
    if data.resolve() == real or real in data.resolve().parents:
        raise InputError(f"{data} lies in {raw}: choose a folder outside, so that the pictures stay as they are")
    if data.resolve() in real.parents:
        raise InputError(f"{raw} lies in {data}: choose another folder, so that the pictures stay as they are")
    check_place(data)
    ours = not data.exists() or not any(f for f in data.iterdir() if not is_lock(f))
    ours = ours or any((data / name).is_file() for name in ("metadata.jsonl", JOURNAL))
    if not ours and not force:
        raise RefusedError(f"{data} exists and was not made by ppim; choose another folder or use --force")


def rows(given: list[Source], manifest: Manifest) -> Iterator[dict[str, Any]]:
    """The lines of metadata.jsonl, one a picture to train on."""
    for source in given:
        record = manifest.get(source.key)
        for row in record.get("rows", ()):
            shared = {"source": source.key, "sha256": record["sha256"], "format": record["format"], "verdict": "taken"}
            whole = {"file_name": row["file_name"], "text": row["text"], **shared, **row, "settings": record["mark"]}
            whole["notes"] = [*record["notes"], *record.get("caption_notes", ()), *row["notes"]]
            yield {key: value for key, value in whole.items() if key not in _PRIVATE}


def _prune(data: Path, gone: list[str], manifest: Manifest, prune: bool, note: Note) -> None:
    files = [row for key in gone for row in manifest.get(key).get("rows", ())]
    if not files:
        return
    if not prune:
        note(
            f"{lint.count(len(files), 'picture')} in {data} without a source any more, no part of the set; --prune removes them"
        )
        return
    for row in files:
        reading.remove(data, row)
    note(f"{lint.count(len(files), 'picture')} without a source removed (--prune)")


def _tell(raw: Path, given: list[Source], manifest: Manifest, note: Note) -> tuple[list[dict[str, str]], int]:
    """Say why each picture was left out; gives the rejected ones and the number of duplicates."""
    rejected, duplicates = [], 0
    for source in given:
        record = manifest.get(source.key)
        if "duplicate_of" in record:
            duplicates += 1
            note(f"{raw / source.key}: {record['duplicate_how']} {record['duplicate_of']}")
        elif "reason" in record:
            rejected.append({"file": str(raw / source.key), "reason": record["reason"]})
            note(f"{raw / source.key}: {record['reason']}")
    return rejected, duplicates


def run(
    raw: Path, data: Path, settings: Settings, *, force: bool, strict: bool, dry_run: bool, tick: Tick, note: Note,
) -> dict[str, Any]:  # fmt: skip
    """Prepare RAW into DATA. A folder that is there and is not ours is refused unless forced."""
    _check(raw, data, force)
    if settings.crop == "face":
        need_opencv("--crop face")
    if settings.edit:
        from lorakit.jobs.ppim.edit import editor

        editor()  # before any work: is there one?
    given = reading.sources(raw, data)
    if not given:
        raise InputError(f"{raw}: no pictures below it ({', '.join(sorted(s[1:] for s in SUFFIXES))})")
    if dry_run:
        note(f"{len(given)} pictures would be prepared into {data}")
        return {"outputs": [], "read": len(given), "written": 0, "rejected": [], "duplicates": 0}
    if not any((data / name).is_file() for name in (MANIFEST, JOURNAL)):  # else all may be there already
        finishing.need(settings)
    if outside := [source.key for source in given if source.outside and not source.problem]:
        note(f"{lint.count(len(outside), 'picture')} outside {raw}, where links lead: {some(outside, 3)}")
    with held(data):
        manifest = Manifest(data)
        try:
            return _fill(raw, data, given, settings, manifest, force=force, strict=strict, tick=tick, note=note)
        finally:
            manifest.close()


def _fill(
    raw: Path, data: Path, given: list[Source], settings: Settings, manifest: Manifest,
    *, force: bool, strict: bool, tick: Tick, note: Note,
) -> dict[str, Any]:  # fmt: skip
    if manifest.resumed:
        note("going on with a run that was cut off")
    keys = [source.key for source in given]
    fresh = reading.read(given, raw, data, settings, manifest, tick, anew=False)
    if lacking := reading.settle(given, data, settings, manifest):
        fresh += reading.read(lacking, raw, data, settings, manifest, tick, anew=True)
    finishing.enlarge(given, data, settings, manifest, tick)
    finishing.cover(given, data, settings, manifest, tick)
    by_hand = finishing.Captioning(raw, data, settings, manifest, force).run(given, tick)
    if settings.edit:
        from lorakit.jobs.ppim.edit import edit

        by_hand += edit(given, data, manifest, note)
    if by_hand:
        note(f"{lint.count(by_hand, 'caption')} written by hand, which stay; --force makes them anew")
    gone = sorted(manifest.sources() - set(keys))
    _prune(data, gone, manifest, settings.prune, note)
    rejected, duplicates = _tell(raw, given, manifest, note)
    written = 0
    with replacing(data / "metadata.jsonl") as partial, partial.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows(given, manifest):
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            written += 1
    found = lint.lint(rows(given, manifest), manifest.records(keys), settings)
    for line in found.lines:
        note(line)
    outputs = [str(data)]
    training_set.write(data, manifest.records(keys), raw, found)
    if settings.contact_sheet:
        from lorakit.reports.contact import write as write_sheet

        outputs.append(str(write_sheet(data, rows(given, manifest))))
    manifest.finish(keys if settings.prune else sorted([*keys, *gone]))
    if not written:
        first = rejected[0] if rejected else {"file": str(raw), "reason": "duplicates"}
        raise InputError(
            f"{raw}: of {lint.count(len(given), 'picture')} none can be used; the first: {Path(first['file']).name} ({first['reason']})\n"
            f"{data / 'report.html'} says why of each"
        )
    if strict and rejected:
        listed = "; ".join(f"{Path(r['file']).name} ({r['reason']})" for r in rejected[:3])
        raise InputError(f"{lint.count(len(rejected), 'picture')} of no use (--strict): {listed}")
    return {
        "outputs": outputs, "read": len(given), "written": written, "rejected": rejected, "duplicates": duplicates,
        "prepared": fresh, "lint": found.lines,
    }  # fmt: skip
