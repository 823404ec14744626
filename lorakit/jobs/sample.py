"""Pictures from prompts, with adapters: into a folder or one file, as a grid, or as lines come."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from lorakit.bounds import check_count
from lorakit.composition import Composition
from lorakit.data.pngtext import drafted
from lorakit.data.pngtext import encode as png
from lorakit.drawing import composing
from lorakit.drawing.grid import Axis, cells
from lorakit.drawing.numbered import Numbered, sheet_name
from lorakit.drawing.request import Request, Shot, from_line, shots_of
from lorakit.drawing.session import Drawn, Session, drawing, load_model, spaced
from lorakit.drawing.tagged import Tagged
from lorakit.errors import InputError, LorakitError, StorageError, UsageError, faults_together
from lorakit.io.endings import FILM, PICTURE, PICTURES
from lorakit.io.files import check_place, check_target, write_bytes
from lorakit.io.inputs import existing_file
from lorakit.io.plain import bounded_lines
from lorakit.io.record import Record, recorded
from lorakit.models.load import Components
from lorakit.reports import moving, sheets
from lorakit.runtime.signals import telling
from lorakit.talk import Note, Talk

_STRIP, _FILM = 8, 24  # stages at most


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What is written beside the pictures.

    axes             of a grid, by name
    moving           "gif", "webp", "mp4": the grid's cells one after another, `frame` milliseconds each; without a grid
                     the stages of each picture
    stages           a strip of the denoising beside each picture
    limit            bytes of composed weights that are kept
    show             gets each picture as it is made
    lora_dir         where the adapters are that prompts name
    """

    axes: dict[str, Axis] | None = None
    moving: Sequence[str] = ()
    frame: int = 400
    stages: bool = False
    limit: int | None = None
    tokenizer: Path | None = None
    show: Callable[[np.ndarray], None] | None = None
    lora_dir: str | None = None


def run(
    request: Request,
    output: Path,
    *,
    loras: Sequence[str],
    device: str,
    force: bool,
    dry_run: bool,
    talk: Talk,
    changes: composing.MemberChanges | None = None,
    extras: Extras | None = None,
    lines: Sequence[str] = (),
    composition: Composition | None = None,
) -> dict[str, Any]:
    """Draw into a folder, or into one PNG where `output` ends in .png and one picture is asked for; a grid's sheet goes
    there too.

    lines         prompts with options of their own, in place of the request's prompts
    composition   in place of the adapters' arguments
    """
    extras = extras or Extras()
    _check_pictures(request)
    asked = composing.read(loras, changes) if composition is None else composition
    if not any(axis.key in ("lora", "recipe") for axis in (extras.axes or {}).values()):
        _check_adapters(asked, changes)
    requests = [from_line(line, request) for line in lines] or [request]
    check_count(sum(len(one.prompts) * one.count for one in requests))
    shots = [shot for one in requests for shot in shots_of(one, asked)]
    tagged = Tagged(extras.lora_dir, talk.note)
    if extras.axes and any(composing.changes_adapters(axis.key) for axis in extras.axes.values()):
        shots = tagged.shots(shots)  # the axis may be of an adapter that the prompt names
    grid = [tagged.shots(row) for row in _grid(extras, shots, changes)]
    shots = [shot for row in grid for shot in row] if grid else tagged.shots(shots)
    if extras.lora_dir is not None and not tagged.used:
        talk.note(
            f"--lora-dir {extras.lora_dir}: no prompt names an adapter that is there, such as <lora:name:0.8> or embedding:name"
        )
    plan = _Outputs(output, len(shots), bool(grid), extras, force)
    with nullcontext() if plan.single else recorded(output) as record:
        plan.check(record)
        return _drawn(plan, request, shots, grid=grid, asked=asked, device=device, dry_run=dry_run, talk=talk)


def _drawn(
    plan: _Outputs,
    request: Request,
    shots: list[Shot],
    *,
    grid: list[list[Shot]],
    asked: Composition,
    device: str,
    dry_run: bool,
    talk: Talk,
) -> dict[str, Any]:
    extras = plan.extras
    components = load_model(
        request.model,
        device,
        request.dtype,
        note=talk.note,
        tokenizer=extras.tokenizer,
        wanted=request.wanted,
        vae=request.vae,
    )
    for shot in shots:
        drawing(components, shot.request)
    if request.tiling:
        components.vae.enable_tiling()
    compositions = list({id(s.composition): s.composition for s in shots}.values())
    session = Session(components, compositions, talk.note, extras.limit, request.cut_inputs)
    session.tell(shots)
    session.remind(shots)
    adapters = session.loras(shots[0].composition if _are_alike(shots) else asked)
    session.check(shots)
    if dry_run:
        talk.note(f"{len(shots)} pictures would be drawn into {plan.output}")
        return {"outputs": [], "adapters": adapters}
    made: list[np.ndarray] = []
    with telling(
        lambda: (
            f"{len(plan.written)} files are in {plan.output}, whole; the same command draws all pictures anew, after them"
        )
    ):
        for i, one in enumerate(session.draw(shots, plan.stages)):
            plan.write(i, one)
            if extras.show is not None:
                extras.show(one.picture)
            if grid:
                made.append(one.picture)
            talk.tick(i + 1, len(shots))
        if grid:
            plan.write_sheet(made, grid, extras)
    return {"outputs": [str(name) for name in plan.written], "adapters": adapters}


def _are_alike(shots: Sequence[Shot]) -> bool:
    """Whether all are drawn with the same adapters."""
    return len({id(shot.composition) for shot in shots}) == 1


def _check_pictures(request: Request) -> None:
    """What needs no model to be wrong."""
    if request.mask is not None and request.image is None:
        raise UsageError("--mask says what of --image is drawn anew; give --image too")
    given = [(file, option) for option, file in (("--image", request.image), ("--mask", request.mask)) if file]
    faults_together(lambda one: existing_file(one[0], f"picture of {one[1]}"), given)
    request.curve()


def _check_adapters(composition: Composition, changes: composing.MemberChanges | None) -> None:
    if not composition.members and changes not in (None, composing.MemberChanges()):
        raise UsageError("options say how adapters act, and there is none; give one with --lora or --recipe")


def _grid(extras: Extras, shots: list[Shot], changes: composing.MemberChanges | None) -> list[list[Shot]]:
    if not extras.axes:
        return []
    check_count(math.prod(len(axis.values) for axis in extras.axes.values()))
    if len(shots) > 1:
        raise UsageError(f"--grid takes one prompt and -n 1; {len(shots)} pictures are asked for")
    read: dict[str, Composition] = {}

    def compose(arguments: Sequence[str]) -> Composition:
        key = "\0".join(arguments)
        if key not in read:
            read[key] = composing.read(arguments, changes)
        return read[key]

    return cells(extras.axes, shots[0], compose)


class _Outputs:
    """Where pictures, strips and sheets go: beside one PNG, or into a folder in which pictures number on."""

    def __init__(self, output: Path, count: int, grid: bool, extras: Extras, force: bool) -> None:
        self.output, self.count, self.grid, self.extras, self.force = output, count, grid, extras, force
        self.written: list[Path] = []
        self.single = not PICTURES.is_folder(output)
        self.folder = Numbered(output, anew=force)
        self._first = 0  # number of a grid's first picture
        if self.single and self.count > 1 and not self.grid:
            raise UsageError(f"-o {self.output}: {self.count} pictures need a folder")
        if self.extras.moving and not self.grid and not self.extras.stages:
            raise UsageError(
                "--gif, --webp and --mp4 show the cells of a --grid or the stages of --save-steps one after another; "
                "give one of them"
            )
        moving.check(self.extras.moving)

    @property
    def _films(self) -> Sequence[str]:
        """Kinds of moving pictures of each picture's stages."""
        return () if self.grid else self.extras.moving

    @property
    def stages(self) -> int:
        return 0 if not self.extras.stages else _FILM if self._films else _STRIP

    def check(self, record: Record | None) -> None:
        PICTURES.check(self.output)
        if record is not None:
            check_place(self.output)
            record.check(self._names() if self.force else ())
            return
        targets = [self.output]
        if self.grid:
            targets += [self.output.with_suffix(f".{kind}") for kind in self.extras.moving]
        if self.extras.stages:
            targets += [self._beside(i, kind) for i in range(self.count) for kind in ("png", *self._films)]
        for target in targets:
            check_target(target, PICTURE if target.suffix.lower() == ".png" else FILM, force=self.force)

    def _names(self) -> Iterator[str]:
        """What is written into a folder whose pictures begin at 00000."""
        for i in range(self.count):
            yield f"{i:05d}.png"
            if self.extras.stages:
                yield from (f"{i:05d}.steps.{kind}" for kind in ("png", *self._films))
        if self.grid:
            yield from (f"{sheet_name(0)}.{kind}" for kind in ("png", *self.extras.moving))

    def _beside(self, i: int, kind: str) -> Path:
        """A strip or a film of picture i, beside the one PNG."""
        return self.output.with_suffix(f".{i:05d}.steps.{kind}" if self.grid else f".steps.{kind}")

    def write(self, i: int, one: Drawn) -> None:
        number = i
        if not self.single:
            number = self.folder.put(png(one.picture, one.settings))
            self.written.append(self.folder.file(number))
            self._first = number if i == 0 else self._first
        elif not self.grid:
            self._put(self.output, png(one.picture, one.settings))
        if not one.stages:
            return
        labels, stages = zip(*spaced(one.stages, _STRIP), strict=True)
        films = {"png": _bytes(sheets.strip(stages, labels))}
        labels, stages = zip(*one.stages, strict=True)
        films |= {kind: moving.film(stages, labels, kind, self.extras.frame, back=False) for kind in self._films}
        self._put_all(films, lambda kind: self._beside(i, kind), f"{number:05d}.steps")

    def write_sheet(self, made: list[np.ndarray], grid: list[list[Shot]], extras: Extras) -> None:
        axes, width = extras.axes or {}, len(grid[0])
        columns = [f"{axes['x'].key} {value}" for value in axes["x"].values] if "x" in axes else [""]
        rows = [f"{axes['y'].key} {value}" for value in axes["y"].values] if "y" in axes else [""]
        table = [made[i : i + width] for i in range(0, len(made), width)]
        title = "" if any(axis.key == "prompt" for axis in axes.values()) else grid[0][0].prompt
        labels = [", ".join(text for text in (row, column) if text) for row in rows for column in columns]
        films = {"png": _bytes(sheets.table(table, columns, rows, title))}
        films |= {kind: moving.film(made, labels, kind, extras.frame) for kind in extras.moving}
        self._put_all(films, lambda kind: self.output.with_suffix(f".{kind}"), sheet_name(self._first))

    def _put_all(self, films: Mapping[str, bytes], beside: Callable[[str], Path], name: str) -> None:
        """Write a strip or sheet and its films, by kind: `beside` the one PNG, or as `name` and the kind in the folder."""
        for kind, data in films.items():
            if self.single:
                self._put(beside(kind), data)
            else:
                self.written.append(self.folder.put_beside(f"{name}.{kind}", data))

    def _put(self, target: Path, data: bytes) -> None:
        write_bytes(target, data)
        self.written.append(target)


def _bytes(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG", pnginfo=drafted())
    return data.getvalue()


def serve(
    request: Request,
    output: Path,
    lines: TextIO,
    *,
    loras: Sequence[str],
    device: str,
    force: bool,
    dry_run: bool,
    note: Note,
    each: Callable[[dict[str, Any]], None],
    changes: composing.MemberChanges | None = None,
    extras: Extras | None = None,
) -> int:
    """Draw each line's pictures as it comes, into a folder; `each` gets one object a picture, or what was wrong with the
    line. Gives the exit status of the last line that failed, 0 without one. In a dry run the objects have no output."""
    extras = extras or Extras()
    _check_pictures(request)
    check_place(output)
    asked = composing.read(loras, changes)
    _check_adapters(asked, changes)
    components = load_model(
        request.model,
        device,
        request.dtype,
        note=note,
        tokenizer=extras.tokenizer,
        wanted=request.wanted,
        vae=request.vae,
    )
    sessions = _Sessions(components, asked, note, extras.limit, request.cut_inputs)
    tagged = Tagged(extras.lora_dir, note)
    if request.tiling:
        components.vae.enable_tiling()
    folder, status, at, drawn = Numbered(output, anew=force), 0, 0, 0
    with recorded(output), telling(lambda: f"{drawn} pictures are in {output}"):
        for at, line in bounded_lines(lines, "--prompts -"):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                shots = tagged.shots(shots_of(from_line(line.strip(), request), asked))
                session = sessions.of(shots)
                session.tell(shots)
                session.remind(shots)
                session.check(shots)
                for shot in shots if dry_run else ():
                    each({"line": at, "output": None, **session.settings(shot)})
                for one in () if dry_run else session.draw(shots):
                    number = folder.put(png(one.picture, one.settings))
                    drawn += 1
                    each({"line": at, "output": str(folder.file(number)), **one.settings})
            except StorageError:
                raise  # a full disk is no fault of the line
            except LorakitError as error:
                status = error.exit_status
                each({"line": at, "error": str(error), "status": status})
    if not at:
        raise InputError("--prompts -: nothing came on standard input")
    return status


class _Sessions:
    """The session of lines as they come: made anew where a line brings adapters that were not there before."""

    def __init__(
        self, components: Components, asked: Composition, note: Note, limit: int | None, cut_inputs: bool
    ) -> None:
        self._begin = lambda held: Session(components, held, note, limit, cut_inputs)
        self._session = self._begin([asked])
        self._held = [asked]

    def of(self, shots: Sequence[Shot]) -> Session:
        """A session that has the adapters of these shots."""
        wanted = [shot.composition for shot in shots if not self._session.has(shot.composition)]
        if wanted:
            held = [*self._held, *{id(one): one for one in wanted}.values()]
            self._session.ensemble.remove()
            try:
                self._session = self._begin(held)
            except LorakitError:
                self._session = self._begin(self._held)
                raise
            self._held = held
        return self._session
