"""A folder to the examples that are trained on, whichever of the common layouts it has."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from lorakit.data.caption_files import BadCaption, agreed, lines_of
from lorakit.data.decode import HEIC_SUFFIXES, reads_heic
from lorakit.data.faults import Faults
from lorakit.data.folder import Contents, look
from lorakit.data.images import SUFFIXES, BadPicture, load
from lorakit.data.mask_files import mask_of
from lorakit.data.pictures import PictureFile
from lorakit.data.repeats import AUTO, repeats_of
from lorakit.data.tables import TableRow
from lorakit.data.walk import OTHERS, find, suffix_of
from lorakit.errors import InputError, some
from lorakit.io.inputs import existing_folder
from lorakit.talk import Note, silent

__all__ = ["Example", "find", "measured", "read", "size_of", "unreadable", "why_not"]


@dataclass(frozen=True, kw_only=True)
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


UNEQUAL = "--repeats kohya does so, --repeats none shows each as often"
DATED = "; --repeats kohya repeats their pictures so often"


def read(
    folder: Path,
    instance_prompt: str | None,
    note: Note = silent,
    otherwise: str = "",
    *,
    places: Mapping[Path, str] | None = None,
    drawings: bool = False,
    repeats: str = AUTO,
    prompt: str = "--instance-prompt",
) -> list[Example]:
    """The examples of a ppim folder or imagefolder (metadata.jsonl, metadata.csv), kohya folders, or pictures with
    sidecars; nested as they may be, and mixed. See data/folder.py for what is a picture and what belongs to it.

    A caption is what stands in a file beside the picture, else in a table, else in the name of a kohya folder. Where there
    is neither file nor row, it is `otherwise`. An instance prompt replaces all captions, which is noted.

    places, drawings    as `folder.look` takes them
    repeats             auto, kohya, none or a number, as --repeats
    prompt              the option that gives the prompt of all pictures, or of those without a caption
    raises              InputError that lists all that is wrong, not the first
    """
    existing_folder(folder, "training pictures")
    faults, examples, replaced = Faults(), list[Example](), 0
    found = look(folder, faults, places=places, drawings=drawings, again="; add a row for each, or run ppim again")
    for line in [*found.notes, *(f"{folder / one.path}: {one.problem}" for one in found.unread)]:
        note(line)
    unread = [one for one in found.pictures if suffix_of(one.path) in OTHERS]
    pictures = [one for one in found.pictures if suffix_of(one.path) not in OTHERS]
    often = repeats_of(pictures, repeats, faults, note, UNEQUAL, DATED)
    for one, times in zip(pictures, often, strict=True):
        if not times:
            continue
        row, file = one.row or TableRow(), folder / one.path
        named = one.number.words if one.number else ""
        captions: tuple[str, ...] = ()
        if instance_prompt is None:
            beside = _beside(folder, one, faults)
            # The file beside it rules over a table: it is what people edit.
            captions = beside or row.captions or lines_of(otherwise or named)
            if not captions and beside is not None:
                faults.add(f"{{n}} pictures have no caption; write NAME.txt beside each, or give {prompt}", file.name)
        else:
            captions = (instance_prompt,)
            replaced += bool(one.captions or row.captions or named)
        mask = _mask(folder, one, faults)
        examples.append(
            Example(file=file, captions=captions, repeats=times, mask=mask, written=row.written, token=row.token)
        )
    faults.raise_any(folder)
    if not examples:
        raise _none_found(folder, found)
    if unread:
        kinds = Counter(OTHERS[suffix_of(one.path)] for one in unread)
        note(
            f"left out, of kinds that are not read: {', '.join(f'{n} {kind}' for kind, n in kinds.most_common())}; convert "
            "them to PNG or JPEG"
        )
    if replaced:
        note(f"{prompt} is given: captions of pictures are not read ({replaced})")
    elif found.loose and instance_prompt is None:
        note(loose(found.loose))
    return examples


def loose(files: Sequence[str]) -> str:
    """What to say of caption files that belong to no picture."""
    one = len(files) == 1
    return (
        f"{len(files)} caption file{'s' * (not one)} of no picture {'is' if one else 'are'} not read: {some(files, 3)}"
    )


def _beside(folder: Path, one: PictureFile, faults: Faults) -> tuple[str, ...] | None:
    """The captions in the files beside a picture; None where they are at fault."""
    try:
        return lines_of(agreed([folder / file for file in one.captions]))
    except BadCaption as fault:
        faults.add(fault.kind, fault.name)
    return None


def _mask(folder: Path, one: PictureFile, faults: Faults) -> Path | None:
    try:
        return mask_of([folder / mask for mask in one.masks])
    except BadPicture as reason:
        faults.add("{n} masks cannot be used", str(reason))
    return None


def _none_found(folder: Path, found: Contents) -> InputError:
    others = Counter(file.suffix.lower() for file in folder.rglob("*") if file.is_file() and file.suffix)
    there = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(3))
    kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
    why = "".join(f"\n{line}" for line in found.notes[:2])
    return InputError(f"{folder}: no pictures to train on ({kinds}); there are {there or 'no files'}{why}")


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
