"""The one reader of a folder of pictures: which files are pictures to use, and what belongs to each. Nothing is decoded.

`ppim` and `train` both ask here, so that both see the same pictures with the same captions, masks and repeats. What is
passed by is in `Contents.notes`, a line a kind.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path

from lorakit.data.beside import captioned, masked, owners, perhaps_masked
from lorakit.data.faults import Faults
from lorakit.data.own import DRAWN, Own
from lorakit.data.pictures import PictureFile, number_of
from lorakit.data.tables import TABLES, UNREAD, NoTable, TableRow, read_table
from lorakit.data.walk import FoundPicture, Listed, folders
from lorakit.errors import some
from lorakit.io.inputs import kind_of

_MASK_FOLDERS = ("mask", "masks")
_SHOWN = 5


@dataclass
class Contents:
    """The pictures of a folder, in the order of their paths, what to say of all else in it, the caption files that
    belong to no picture, and the folders that cannot be read."""

    pictures: list[PictureFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    unread: list[FoundPicture] = field(default_factory=list)


def look(
    folder: Path, faults: Faults, *, places: Mapping[Path, str] | None = None, drawings: bool = False, again: str = ""
) -> Contents:
    """What `folder` holds.

    faults      gets what is wrong with its tables
    places      folders that are no part of it, by what they are: the run folder, the output, --prior-dir
    drawings    whether pictures that lorakit drew are wanted, as class pictures are, and those that no table names beside
                them; else they are left out, unless there is nothing else, or a person has captioned them or put them
                into a table
    again       what to do about pictures that a table does not name
    """
    listed = sorted(folders(folder, places), key=lambda one: os.fsencode(one.path))
    own = Own(folder, {one.path: one.hidden for one in listed})
    contents = Contents()
    elsewhere = {found.path: one.place for one in listed if one.place for found in one.pictures}
    listed = [one for one in listed if not one.place]
    masks, found = _masks(listed)
    beside = {path: files for one in listed for path, files in _captions(one, found).items()}
    tables = [one.below(name) for one in listed for name in TABLES if name in one.files]
    theirs = [table for table in tables if own.wrote(table)]
    rows, covered = _rows(folder, [table for table in tables if table not in theirs], faults, contents)
    sheets, drawings_found = _ours(own, found, beside, rows)
    left = set(sheets)
    if not drawings and len(sheets) + len(drawings_found) < len(found):
        left |= drawings_found
    else:
        more, above = _rows(folder, theirs, faults, contents)
        rows, covered = {**more, **rows}, covered | above
        if drawings_found and not drawings:
            contents.notes.append(f"all pictures of {folder} were drawn by lorakit; they are taken as they are")
    for path in {row.mask for row in rows.values()} - set(rows):
        found.pop(path, None)  # a mask that a table names, whatever it is called
    unnamed = {path for path in found if path not in rows and covered & set(_folders_above(path))} - left
    if drawings:  # of class pictures all are used: a table names those that were drawn, and a person adds some
        unnamed = set()
    for path in sorted({*found, *rows} - left - unnamed, key=os.fsencode):
        row, entry, of = rows.get(path), found.get(path, FoundPicture(path)), masks.get(path, [])
        if row is not None and row.mask:
            of = _mask_of_row(folder, row.mask, path, of, faults)
        contents.pictures.append(
            PictureFile(
                path=path,
                problem=entry.problem,
                outside=entry.outside,
                captions=beside.get(path, ()),
                masks=tuple(of),
                row=row,
                number=number_of(path),
            )
        )
    contents.loose = _loose(folder, listed, found, beside)
    _tell(contents, folder, masks.get("", ()), unnamed, again)
    if ours := _ours_named(left, elsewhere):
        contents.notes.append(f"left out of {folder}: {ours}")
    for one in listed:
        contents.notes += [
            f"{one.below(name)} is not read; write it as {TABLES[0]}" for name in UNREAD if name in one.files
        ]
        contents.unread += [FoundPicture(one.path or ".", one.problem)] * bool(one.problem)
    return contents


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _folders_above(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _masks(listed: Sequence[Listed]) -> tuple[dict[str, list[str]], dict[str, FoundPicture]]:
    """The masks of each picture, and the pictures that are none; masks of no picture are under ""."""
    masks: dict[str, list[str]] = {}
    found: dict[str, FoundPicture] = {}
    for one in listed:
        names = {os.path.basename(p.path): p for p in one.pictures}
        beside = {name: stem for name in names if (stem := masked(name)) is not None}
        pictures = [name for name in names if name not in beside]
        of = owners(pictures, beside)
        found |= {names[name].path: names[name] for name in pictures}
        masks |= {one.below(name): [one.below(mask) for mask in mine] for name, mine in of.items()}
        fitting = {mask for mine in of.values() for mask in mine}
        masks.setdefault("", []).extend(one.below(name) for name in beside if name not in fitting)
    for folder in sorted({above for path in found for above in _folders_above(path) if _is_mask_folder(above)}):
        _take_mask_folder(folder, masks, found)
    return masks, found


def _is_mask_folder(path: str) -> bool:
    return path.rpartition("/")[2].lower() in _MASK_FOLDERS


def _take_mask_folder(folder: str, masks: dict[str, list[str]], found: dict[str, FoundPicture]) -> None:
    """Take the pictures of a folder `masks` for masks, where any has the name of a picture in the folder above it, or in
    one beside it: `masks/a.png` of `a.jpg`, `masks/10_dog/a.png` of `images/10_dog/a.jpg`."""
    home = _parent(folder)
    inside = [path for path in found if path.startswith(f"{folder}/")]
    stems: dict[str, list[str]] = {}
    for path in found:
        if not any(_is_mask_folder(above) for above in _folders_above(path)):
            stems.setdefault(os.path.splitext(path)[0], []).append(path)
    beside = {path.removeprefix(f"{home}/").split("/")[0] for path in found if not home or path.startswith(f"{home}/")}
    for base in (home, *sorted(f"{home}/{name}" if home else name for name in beside)):
        of = {path: stems.get(os.path.splitext(_joined(base, path[len(folder) + 1 :]))[0], []) for path in inside}
        if any(of.values()):
            for path in inside:
                del found[path]
                masks.setdefault("", []).extend([path] * (not of[path]))
                for picture in of[path]:
                    masks.setdefault(picture, []).append(path)
            return


def _joined(base: str, rest: str) -> str:
    return f"{base}/{rest}" if base else rest


def _captions(one: Listed, found: Mapping[str, FoundPicture]) -> dict[str, tuple[str, ...]]:
    """The caption files of each picture of a folder."""
    pictures = [os.path.basename(p.path) for p in one.pictures if p.path in found]
    beside = {name: stem for name in one.files if (stem := captioned(name)) is not None}
    of = owners(pictures, beside)
    return {one.below(name): tuple(one.below(file) for file in files) for name, files in of.items()}


def _rows(
    folder: Path, tables: Iterable[str], faults: Faults, contents: Contents
) -> tuple[dict[str, TableRow], set[str]]:
    """What the tables say by picture, and the folders that they speak for."""
    rows: dict[str, TableRow] = {}
    covered: set[str] = set()
    for table in tables:
        if (kind := kind_of(folder / table)) != "a file":
            faults.add("{n} tables are no files; remove what is in their place", f"{os.path.basename(table)} ({kind})")
            continue
        try:
            rows |= read_table(folder, table, faults)
            covered.add(_parent(table))
        except NoTable as reason:
            contents.notes.append(f"{table} is not read: {reason}")
    return rows, covered


def _ours(
    own: Own, found: Mapping[str, FoundPicture], beside: Mapping[str, Sequence[str]], rows: Mapping[str, TableRow]
) -> tuple[set[str], set[str]]:
    """What lorakit wrote to be looked at, and what it drew, without what a person has made data of."""
    sheets, drawings = set[str](), set[str]()
    for path, one in found.items():
        if one.problem or path in rows or any(not own.wrote(file) for file in beside.get(path, ())):
            continue
        if kind := own.kind(path):
            (drawings if kind == DRAWN else sheets).add(path)
    return sheets, drawings


def _mask_of_row(folder: Path, mask: str, path: str, beside: list[str], faults: Faults) -> list[str]:
    """The mask that a row names; one that stood beside the picture and was taken away is none any more."""
    if (folder / mask).is_file():
        return [mask]
    if _parent(mask) != _parent(path) or masked(os.path.basename(mask)) is None:
        faults.add("{n} masks that tables name are not there", mask)
    return beside


def _loose(
    folder: Path, listed: Sequence[Listed], found: Mapping[str, FoundPicture], beside: Mapping[str, Sequence[str]]
) -> list[str]:
    """Caption files of no picture, in folders that have pictures: elsewhere a text file is no caption."""
    known = {file for files in beside.values() for file in files}
    named = [
        one.below(name)
        for one in listed
        if any(p.path in found for p in one.pictures)
        for name in one.files
        if captioned(name) is not None
    ]
    return [file for file in named if file not in known and kind_of(folder / file) == "a file"]


def _tell(contents: Contents, folder: Path, lone: Sequence[str], unnamed: set[str], again: str) -> None:
    say = contents.notes.append
    used = {one.path for one in contents.pictures}
    if outside := [one.path for one in contents.pictures if one.outside and not one.problem]:
        say(f"{_count(outside, 'picture')} outside {folder}, where links lead: {some(outside, 3)}")
    if unnamed:
        say(
            f"{_count(unnamed, 'picture')} in no row of {' or '.join(TABLES)}, left out: {some(sorted(unnamed), 3)}{again}"
        )
    if lone := [path for path in lone if path not in used]:
        say(f"{_count(lone, 'mask')} of no picture, left out: {some(lone, 3)}")
    stems = {os.path.splitext(path)[0] for path in used}
    of = {path: perhaps_masked(os.path.basename(path)) for path in sorted(used)}
    if doubtful := [path for path, name in of.items() if name is not None and _joined(_parent(path), name) in stems]:
        say(
            f"{_count(doubtful, 'picture')} named like a mask, taken for a picture: {some(doubtful, 3)}; the mask of a.png "
            "is called a.mask.png"
        )


def _ours_named(left: Iterable[str], elsewhere: Mapping[str, str]) -> str:
    """Names of files in the folder itself, and of folders with how many of them are in each."""
    own = sorted(left)
    inner = Counter(_parent(path) for path in own if "/" in path)
    names = [
        *(path for path in own if "/" not in path),
        *(f"{count} in {name}" for name, count in sorted(inner.items())),
    ]
    parts = [f"{len(own)} that lorakit wrote itself ({some(names, _SHOWN)})"] if own else []
    return ", ".join(parts + [f"{count} of {name}" for name, count in sorted(Counter(elsewhere.values()).items())])


def _count(things: Sized, what: str) -> str:
    """ "1 picture is", "2 pictures are"."""
    return f"1 {what} is" if len(things) == 1 else f"{len(things)} {what}s are"
