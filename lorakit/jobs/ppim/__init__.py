"""A folder of pictures to a training set; only what is new or changed is done again, and what people wrote stays."""

from pathlib import Path
from typing import Any

from lorakit.data.faces import need_opencv
from lorakit.data.images import SUFFIXES
from lorakit.data.own import CONTACT_SHEET
from lorakit.errors import InputError, RefusedError, some
from lorakit.io.files import check_place
from lorakit.io.inputs import existing_folder
from lorakit.jobs.ppim import finishing, lint, reading, table
from lorakit.jobs.ppim.keeping import Keeper, caption_file, is_odd, known, mask_file, stay
from lorakit.jobs.ppim.manifest import FILE as MANIFEST
from lorakit.jobs.ppim.manifest import JOURNAL, Manifest
from lorakit.jobs.ppim.reading import RawPicture
from lorakit.jobs.ppim.settings import Settings, native
from lorakit.reports import training_set
from lorakit.runtime.locks import held
from lorakit.talk import Note, Talk

__all__ = ["Settings", "known", "native", "run"]
_REPORT, _SHEET = "report.html", CONTACT_SHEET


def _check(raw: Path, data: Path, force: bool) -> None:
    existing_folder(raw, "pictures")
    real = raw.resolve()
    if data.resolve() == real or real in data.resolve().parents:
        raise InputError(f"{data} lies in {raw}: choose a folder outside, so that the pictures stay as they are")
    if data.resolve() in real.parents:
        raise InputError(f"{raw} lies in {data}: choose another folder, so that the pictures stay as they are")
    check_place(data)
    if not data.exists():
        return
    if is_odd(data / table.FILE):
        raise RefusedError(f"{data / table.FILE} is not a file but a link or a folder; move it away")
    others = sorted(file.name for file in data.iterdir() if not file.name.startswith("."))
    if not others or any((data / name).is_file() for name in (MANIFEST, JOURNAL)):
        return
    if table.FILE in others:
        raise RefusedError(
            f"{data / table.FILE} was not made by ppim, which would write its own; choose another folder"
        )
    if not force:
        raise RefusedError(
            f"{data} was not made by ppim: {some(others, 3)} {'is' if len(others) == 1 else 'are'} there; choose another "
            "folder, or have the set written beside them with --force"
        )


def _prune(data: Path, gone: list[str], keeper: Keeper, prune: bool, note: Note) -> None:
    """Name what is no part of the set any more, or with `prune` remove it."""
    manifest = keeper.manifest
    count = 0
    for key in sorted(manifest.sources()):
        record = manifest.get(key)
        rows = [*record.get("former", ()), *(record.get("rows", ()) if key in gone else ())]
        count += len(rows)
        for row in rows if prune else ():
            keeper.remove_row(row)
        if prune and record.pop("former", None):
            manifest.put(key, record)
    if count and prune:
        note(f"{lint.count(count, 'picture')} without a place in the set removed (--prune)")
    elif count:
        note(
            f"{lint.count(count, 'picture')} in {data} no part of the set any more, for the source is gone, rejected or a "
            "duplicate now; --prune removes them"
        )


def _name_others(data: Path, given: list[RawPicture], gone: list[str], keeper: Keeper, note: Note) -> None:
    """Name the files in the folder that are a person's, once all together."""
    if not data.exists():
        return
    ours = {table.FILE, _REPORT, _SHEET, "captions.edit.txt"}
    for key in (*(source.key for source in given), *gone):
        record = keeper.manifest.get(key)
        for row in (*record.get("rows", ()), *record.get("former", ())):
            picture = data / row["file_name"]
            ours |= {picture.name, caption_file(picture).name}
            if "mask_sha256" in row:
                ours.add(mask_file(picture).name)
    others = sorted(file.name for file in data.iterdir() if not file.name.startswith(".") and file.name not in ours)
    if others:
        few = len(others) == 1
        note(
            f"{lint.count(len(others), 'file')} in {data} {'is' if few else 'are'} not ppim's and {'stays' if few else 'stay'} "
            f"as {'it is' if few else 'they are'}: {some(others, 3)}"
        )


def _tell_stayed(captions: finishing.Captioning, keeper: Keeper, settings: Settings, note: Note) -> None:
    """Say how many captions and masks stayed that --force would have made anew."""
    masks = len(keeper.stayed["masks"])
    if by_hand := captions.by_hand:
        which, them = ("which stays", "it") if by_hand == 1 else ("which stay", "them")
        note(f"{lint.count(by_hand, 'caption')} written by hand, {which}; --force makes {them} anew")
    if others := len(keeper.stayed["captions"]) - by_hand:
        why = f" (made with {', '.join(sorted(captions.left_out))}, left out now)" if captions.left_out else ""
        note(f"{stay(others, 'caption')}; --force writes {'it' if others == 1 else 'them'} anew{why}")
    if masks:
        them = "it" if masks == 1 else "them"
        note(f"{stay(masks, 'mask')}; --force {f'removes {them}' if settings.mask == 'none' else f'makes {them} anew'}")


def _tell(raw: Path, given: list[RawPicture], manifest: Manifest, note: Note) -> tuple[list[dict[str, str]], int]:
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


def _tell_masks(given: list[RawPicture], settings: Settings, found: lint.Lint, note: Note) -> None:
    """Say how many pictures of the set have a mask, and that those of RAW are not carried over where others are made."""
    if found.masks:
        note(f"{found.masks} of {lint.count(found.pictures, 'picture')} {'has' if found.masks == 1 else 'have'} a mask")
    lost = sum(bool(source.masks) for source in given)
    if lost and settings.mask != "none":
        note(
            f"{lint.count(lost, 'mask')} of RAW {'is' if lost == 1 else 'are'} not carried over: --mask {settings.mask} makes others"
        )


def run(
    raw: Path, data: Path, settings: Settings, *, force: bool, strict: bool, dry_run: bool, talk: Talk
) -> dict[str, Any]:
    """Prepare RAW into DATA; a dry run does the same without a change on the disk, and without what models would make.

    A folder that is there and is not ppim's is refused, or with `force` the set is written beside what is in it. What a
    person has written or changed in DATA (captions, masks, pictures, lines of metadata.jsonl) goes only with `force`.
    """
    _check(raw, data, force)
    if settings.crop == "face":
        need_opencv("--crop face")
    if settings.edit:
        from lorakit.jobs.ppim.edit import editor

        editor()  # before any work: is there one?
    given = reading.sources(raw, data, talk.note, captions=settings.caption == "keep")
    if not given:
        raise InputError(f"{raw}: no pictures below it ({', '.join(sorted(s[1:] for s in SUFFIXES))})")
    if not any((data / name).is_file() for name in (MANIFEST, JOURNAL)):  # else all may be there already
        finishing.need(settings)
    with held(data, dry_run=dry_run):
        manifest = Manifest(data, dry_run=dry_run)
        keeper = Keeper(data, manifest, force=force, dry_run=dry_run)
        try:
            return _fill(raw, given, settings, keeper, strict=strict, talk=talk)
        finally:
            keeper.clear()
            manifest.close()


def _fill(
    raw: Path, given: list[RawPicture], settings: Settings, keeper: Keeper, *, strict: bool, talk: Talk
) -> dict[str, Any]:
    data, manifest = keeper.data, keeper.manifest
    if manifest.resumed:
        talk.note("going on with a run that was cut off")
    keys = [source.key for source in given]
    arranged = table.take_edits(given, keeper)
    fresh = reading.read(given, raw, settings, keeper, talk.tick, anew=False)
    if lacking := reading.settle(given, settings, keeper):
        fresh += reading.read(lacking, raw, settings, keeper, talk.tick, anew=True)
    finishing.enlarge(given, settings, keeper, talk.tick)
    finishing.repeat(given, keeper)
    finishing.Masking(settings, keeper).run(given, talk.tick)
    captions = finishing.Captioning(raw, settings, keeper)
    captions.run(given, talk.tick)
    if settings.edit and not keeper.dry_run:
        from lorakit.jobs.ppim.edit import edit

        captions.by_hand += edit(given, data, manifest, talk.note)
    _tell_stayed(captions, keeper, settings, talk.note)
    gone = sorted(manifest.sources() - set(keys))
    _prune(data, gone, keeper, settings.prune, talk.note)
    rejected, duplicates = _tell(raw, given, manifest, talk.note)
    gone = [] if settings.prune else gone
    written = table.write(given, gone, keeper, arranged)
    found = lint.lint(table.rows(given, manifest), manifest.records(keys), settings)
    for line in () if keeper.unmade else found.lines:
        talk.note(line)
    _tell_masks(given, settings, found, talk.note)
    with keeper.whole(_REPORT) as file:
        if file is not None:
            training_set.write(file, data, manifest.records(keys), raw, found)
    if settings.contact_sheet:
        with keeper.whole(_SHEET) as sheet:
            if sheet is not None:
                from lorakit.reports.contact import write as write_sheet

                write_sheet(sheet, data, table.rows(given, manifest))
    _name_others(data, given, gone, keeper, talk.note)
    keeper.tell(talk.note)
    keeper.finish()
    manifest.finish(sorted([*keys, *gone]) if gone else keys)
    if not written:
        first = rejected[0] if rejected else {"file": str(raw), "reason": "duplicates"}
        raise InputError(
            f"{raw}: of {lint.count(len(given), 'picture')} none can be used; the first: {Path(first['file']).name} ({first['reason']})\n"
            f"{data / 'report.html'} says why of each"
        )
    if strict and rejected:
        listed = "; ".join(f"{Path(r['file']).name} ({r['reason']})" for r in rejected[:3])
        raise InputError(f"{lint.count(len(rejected), 'picture')} of no use (--strict): {listed}")
    outputs = [str(data), *[str(data / _SHEET)] * settings.contact_sheet]
    return {
        "outputs": [] if keeper.dry_run else outputs,
        "read": len(given),
        "written": written,
        "rejected": rejected,
        "duplicates": duplicates,
        "masks": None if keeper.unmade else found.masks,
        "prepared": fresh,
        "lint": None if keeper.unmade else found.lines,
        "kept": {kind: len(names) for kind, names in keeper.stayed.items()},
    }
