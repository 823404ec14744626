"""What of a training set may be replaced and removed, and what stays because a person has changed or made it."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from lorakit.data.caption_files import tidy
from lorakit.data.images import BadPicture, stored
from lorakit.data.mask_files import mask_name
from lorakit.errors import some
from lorakit.io.files import replacing, write_bytes
from lorakit.io.plain import json_object
from lorakit.jobs.ppim.lint import count
from lorakit.jobs.ppim.manifest import FILE as MANIFEST
from lorakit.jobs.ppim.manifest import JOURNAL, WHOLE, Manifest
from lorakit.jobs.ppim.record import is_sound
from lorakit.talk import Note

STAGING = ".ppim-new"  # below DATA: prepared pictures wait there until the manifest has said that they come
KINDS = ("captions", "masks", "pictures", "rows", "files")
State = Literal["absent", "ours", "changed", "theirs"]


def digest(file: Path) -> str:
    """The sha256 of a file's bytes in hex, "" where there is no file to read."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return ""


def caption_file(picture: Path) -> Path:
    return picture.with_suffix(".txt")


def mask_file(picture: Path) -> Path:
    return picture.with_name(mask_name(picture.name))


def caption_in(file: Path) -> str | None:
    """The caption in a file, or several, a line each; None where there is no file. What cannot be read is no caption of
    ppim's."""
    try:
        return tidy(file.read_bytes().decode("utf-8-sig", "backslashreplace"))
    except FileNotFoundError:
        return None
    except OSError:
        return "\N{REPLACEMENT CHARACTER}"


def is_odd(file: Path) -> bool:
    """Whether a path is there and is no plain file: ppim makes no links or folders."""
    return file.is_symlink() or (file.exists() and not file.is_file())


def _is_picture(file: Path) -> bool:
    try:
        stored(file)
    except BadPicture:
        return False
    return True


def known(folder: Path) -> Callable[[str, bool], bool] | None:
    """Which files of a training set are ppim's by its manifest and journal, as `io.record.survey` asks for it; None for a
    folder that has neither."""
    there = [folder / name for name in (MANIFEST, JOURNAL) if (folder / name).is_file()]
    written: set[tuple[str, str]] = set()  # (name, sha256)
    for line in (line for file in there for line in file.read_bytes().splitlines()):
        with suppress(ValueError):
            record = json_object(line)
            for row in (*record.get("rows", ()), *record.get("former", ())) if is_sound(record) else ():
                for name, kind in (("file_name", "file"), ("mask", "mask")):
                    written |= {(row.get(name, ""), row.get(f"{kind}_{when}") or "") for when in ("sha256", "before")}

    def is_known(name: str, listed: bool) -> bool:
        ours = name in (MANIFEST, JOURNAL) or name.startswith(f"{STAGING}/")
        return ours or (name, digest(folder / name)) in written

    return is_known if there or (folder / STAGING).is_dir() else None


class Keeper:
    """The one hand that replaces and removes files of a training set.

    Files that ppim wrote and nobody has changed since are replaced and removed as a run needs it. Files that a person
    has changed stay unless `force` is given, and files that a person has made always stay. `stayed` names what stayed,
    by kind. A dry run decides the same and changes nothing.
    """

    def __init__(self, data: Path, manifest: Manifest, *, force: bool, dry_run: bool) -> None:
        self.data, self.manifest, self.force, self.dry_run = data, manifest, force, dry_run
        self.stayed: dict[str, dict[str, None]] = {kind: {} for kind in KINDS}
        self.missing: list[str] = []  # pictures that were not there any more and are made again
        self.left_out: list[str] = []  # pictures whose lines a person has taken out of metadata.jsonl
        self.unmade = False  # a dry run has left out what models would make
        self._asides: list[str] = []

    @property
    def staging(self) -> Path:
        return self.data / STAGING

    def say(self, line: str) -> None:
        """Keep a line for the end of the run."""
        self._asides.append(line)

    def stays(self, kind: str, name: str) -> None:
        self.stayed[kind][name] = None

    def state(self, file: Path, *written: str | None, picture: bool = True) -> State:
        """Whose a file is, where ppim wrote bytes of these sha256 to it. A picture that cannot be opened any more is
        damaged and counts as absent; a symbolic link is a person's."""
        ours = {sha256 for sha256 in written if sha256}
        if not os.path.lexists(file):
            return "absent"
        if not ours:
            return "theirs"
        if is_odd(file):
            return "changed"
        if digest(file) in ours:
            return "ours"
        return "changed" if _is_picture(file) or not picture else "absent"

    def may_replace(self, state: State) -> bool:
        return state in ("absent", "ours") or (state == "changed" and self.force)

    def write(self, file: Path, content: bytes) -> None:
        if not self.dry_run:
            self._unlinked(file)
            write_bytes(file, content)

    def move_in(self, name: str) -> None:
        """Bring a picture from the staging folder to its place."""
        if not self.dry_run:
            os.replace(self.staging / name, self.data / name)

    def follow(self, row: dict[str, Any], name: str) -> None:
        """Where the picture of a row is called otherwise from now on, its caption and mask are too; the old one goes."""
        old, new = self.data / row["file_name"], self.data / name
        if old == new:
            return
        for beside in (caption_file, mask_file):
            file, target = beside(old), beside(new)
            if not self.dry_run and file != target and os.path.lexists(file) and not os.path.lexists(target):
                os.replace(file, target)
        self._remove(old, self._picture_state(old, row))

    def remove(self, file: Path) -> None:
        if not self.dry_run:
            file.unlink(missing_ok=True)

    @staticmethod
    def _unlinked(file: Path) -> None:
        """A link that --force replaces leaves alone what it leads to."""
        if file.is_symlink():
            file.unlink()

    def remove_row(self, row: dict[str, Any]) -> None:
        """Remove the picture, mask and caption of a row, and name those of them that a person has changed."""
        picture = self.data / row["file_name"]
        mask = mask_file(picture)
        self._remove(picture, self._picture_state(picture, row))
        self._remove(mask, self.state(mask, row.get("mask_sha256"), row.get("mask_before")))
        self._remove(caption_file(picture), self._caption_state(picture, row))

    def _remove(self, file: Path, state: State) -> None:
        if self.may_replace(state):
            self.remove(file)
        elif state == "changed":
            self.stays("files", file.name)

    def _picture_state(self, picture: Path, row: dict[str, Any]) -> State:
        return self.state(picture, row.get("file_sha256"), row.get("file_before"))

    def _caption_state(self, picture: Path, row: dict[str, Any]) -> State:
        file = caption_file(picture)
        there = caption_in(file)
        if there is None and not file.is_symlink():
            return "absent"
        if row.get("by_hand") or is_odd(file):
            return "changed"
        ours = [text for text in (row["text"], row.get("text_before")) if text]
        return "ours" if there in ours else "changed" if ours or there else "theirs"

    @contextmanager
    def whole(self, name: str) -> Iterator[Path | None]:
        """Gives the path to write a file of the whole set to, such as report.html; it is in its place afterwards. None
        where a person has put another file there, or in a dry run."""
        file, record = self.data / name, self.manifest.get(WHOLE)
        written = record.get("files", {}).get(name, ())
        state = self.state(file, *written, picture=False)
        if state == "changed" and not self.force:
            self.say(f"{file} was changed and stays as it is; --force writes it anew")
        elif state == "theirs":
            self.say(f"{file} is not ppim's and stays as it is: no other {name} was written")
        if self.dry_run or not self.may_replace(state):
            yield None
            return
        self._unlinked(file)
        with replacing(file) as partial:
            yield partial
            self.recorded(name, digest(partial))

    def recorded(self, name: str, sha256: str, **more: Any) -> None:
        """Say in the manifest what a file of the whole set is going to hold, beside what it holds."""
        record = self.manifest.get(WHOLE)
        files = record.get("files", {})
        files[name] = [*files.get(name, ())[-1:], sha256]
        self.manifest.put(WHOLE, {**record, **more, "files": files})

    def finish(self) -> None:
        """Forget what files of the whole set held before, and clear the staging folder."""
        record = self.manifest.get(WHOLE)
        self.manifest.put(WHOLE, {**record, "files": {name: of[-1:] for name, of in record.get("files", {}).items()}})
        self.clear()

    def clear(self) -> None:
        """Remove what a run left in the staging folder."""
        if self.dry_run or not self.staging.is_dir():
            return
        with suppress(OSError):
            for file in self.staging.iterdir():
                file.unlink(missing_ok=True)
            self.staging.rmdir()

    def tell(self, note: Note) -> None:
        """Say what stayed and why, a line for each kind but captions and masks."""
        for what, names, rest in (
            ("picture changed by hand", self.stayed["pictures"], "; --force makes {} anew"),
            (
                "file changed by hand",
                self.stayed["files"],
                ", no part of the set any more; --force with --prune removes {}",
            ),
            ("line edited in metadata.jsonl", self.stayed["rows"], "; --force writes {} anew"),
        ):
            if names:
                note(f"{stay(len(names), what)}{rest.format(_it(names))}: {some(list(names), 3)}")
        if out := self.left_out:
            note(
                f"{count(len(out), 'picture')} left out, without a line in metadata.jsonl; --force takes {_it(out)} in "
                f"again: {some(out, 3)}"
            )
        if again := self.missing:
            note(
                f"{count(len(again), 'picture')} missing or damaged, made again: {some(again, 3)}; to leave a picture out, "
                "take its line out of metadata.jsonl"
            )
        for line in self._asides:
            note(line)


def _it(things: Sized) -> str:
    return "it" if len(things) == 1 else "them"


def stay(number: int, what: str) -> str:
    """The beginning of a line: "1 caption stays as it is", "2 captions stay as they are"."""
    first, _, more = what.partition(" ")
    verb = "stays as it is" if number == 1 else "stay as they are"
    return f"{count(number, first)}{' ' if more else ''}{more} {verb}"
