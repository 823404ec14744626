"""Pictures from prompts, with adapters: into a folder or one file, as a grid, or as lines come."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lorakit.composition import Composition
from lorakit.data.pngtext import encode as png
from lorakit.errors import InputError, LorakitError, UsageError
from lorakit.io.files import check_target, write_bytes
from lorakit.jobs import composed
from lorakit.jobs.session import Drawn, Session, drawing, load_model, pictures, settings_of, spaced
from lorakit.jobs.shots import Axis, Request, Shot, cells, from_line, shots_of
from lorakit.reports import moving, sheets

Note = Callable[[str], None]
Tick = Callable[[int, int], None]

_STRIP, _FILM = 8, 24  # stages at most

__all__ = ["Extras", "Request", "Session", "drawing", "load_model", "pictures", "run", "serve", "settings_of"]


@dataclass(frozen=True)
class Extras:
    """What is written beside the pictures.

    axes             of a grid, by name
    moving           "gif", "webp", "mp4": the grid's cells one after another, `frame` milliseconds each; without a grid
                     the stages of each picture
    stages           a strip of the denoising beside each picture
    limit            bytes of composed weights that are kept
    show             gets each picture as it is made
    """

    axes: dict[str, Axis] | None = None
    moving: Sequence[str] = ()
    frame: int = 400
    stages: bool = False
    limit: int | None = None
    tokenizer: Path | None = None
    show: Callable[[np.ndarray], None] | None = None


def run(
    request: Request, output: Path, *, loras: Sequence[str], device: str, force: bool, dry_run: bool,
    tick: Tick, note: Note, changes: composed.Changes | None = None, extras: Extras | None = None,
    lines: Sequence[str] = (), composition: Composition | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Draw into a folder, or into one PNG where `output` ends in .png and one picture is asked for; a grid's sheet goes
    there too.

    lines         prompts with options of their own, in place of the request's prompts
    composition   in place of the adapters' arguments
    """
    extras = extras or Extras()
    _check_pictures(request)
    asked = composed.read(loras, changes) if composition is None else composition
    if not any(axis.key in ("lora", "recipe") for axis in (extras.axes or {}).values()):
        _check_adapters(asked, changes)
    requests = [from_line(line, request) for line in lines] or [request]
    shots = [shot for one in requests for shot in shots_of(one, asked)]
    grid = _grid(extras, shots, changes)
    if grid:
        shots = [shot for row in grid for shot in row]
    plan = _Outputs(output, len(shots), bool(grid), extras)
    plan.check(force)
    components = load_model(request.model, device, request.dtype, note, extras.tokenizer)
    for shot in shots:
        drawing(components, shot.request)
    if request.tiling:
        components.vae.enable_tiling()
    session = Session(components, list({id(s.composition): s.composition for s in shots}.values()), note, extras.limit)
    adapters = session.loras(asked)
    session.check(shots)
    if dry_run:
        note(f"{len(shots)} pictures would be drawn into {output}")
        return {"outputs": [], "adapters": adapters}
    made = []
    for i, one in enumerate(session.draw(shots, plan.stages)):
        plan.write(i, one)
        if extras.show is not None:
            extras.show(one.picture)
        if grid:
            made.append(one.picture)
        tick(i + 1, len(shots))
    if grid:
        plan.write_sheet(made, grid, extras)
    return {"outputs": [str(name) for name in plan.written], "adapters": adapters}


def _check_pictures(request: Request) -> None:
    """What needs no model to be wrong."""
    if request.mask is not None and request.image is None:
        raise UsageError("--mask says what of --image is drawn anew; give --image too")
    for option, file in (("--image", request.image), ("--mask", request.mask)):
        if file is not None and not file.is_file():
            raise InputError(f"{option} {file}: no such picture")
    request.curve()


def _check_adapters(composition: Composition, changes: composed.Changes | None) -> None:
    if not composition.members and changes not in (None, composed.Changes()):
        raise UsageError("options say how adapters act, and there is none; give one with --lora or --recipe")


def _grid(extras: Extras, shots: list[Shot], changes: composed.Changes | None) -> list[list[Shot]]:
    if not extras.axes:
        return []
    if len(shots) > 1:
        raise UsageError(f"--grid takes one prompt and -n 1; {len(shots)} pictures are asked for")
    read: dict[str, Composition] = {}

    def compose(arguments: Sequence[str]) -> Composition:
        key = "\0".join(arguments)
        if key not in read:
            read[key] = composed.read(arguments, changes)
        return read[key]

    return cells(extras.axes, shots[0], compose)


@dataclass
class _Outputs:
    """Where pictures, strips and sheets go."""

    output: Path
    count: int
    grid: bool
    extras: Extras

    def __post_init__(self) -> None:
        self.written: list[Path] = []
        self.single = self.output.suffix.lower() == ".png"
        if self.single and self.count > 1 and not self.grid:
            raise UsageError(f"-o {self.output}: {self.count} pictures need a folder")
        if self.extras.moving and not self.grid and not self.extras.stages:
            raise UsageError(
                "--gif, --webp and --mp4 show the cells of a --grid or the stages of --save-steps one after another; "
                "give one of them"
            )
        moving.check(self.extras.moving)

    def _cell(self, i: int) -> Path | None:
        if self.single:
            return None if self.grid else self.output
        return self.output / f"{i:05d}.png"

    def _sheet(self, suffix: str) -> Path:
        return self.output.with_suffix(suffix) if self.single else self.output / f"grid{suffix}"

    def _strip(self, i: int, suffix: str = ".png") -> Path:
        cell = self._cell(i)
        kind = f".steps{suffix}"
        return self.output.with_suffix(f".{i:05d}{kind}") if cell is None else cell.with_suffix(kind)

    @property
    def _films(self) -> Sequence[str]:
        """Kinds of moving pictures of each picture's stages."""
        return () if self.grid else self.extras.moving

    @property
    def stages(self) -> int:
        return 0 if not self.extras.stages else _FILM if self._films else _STRIP

    def check(self, force: bool) -> None:
        if not self.single:
            check_target(self.output, force=True, folder=True)
        targets = [cell for i in range(self.count) if (cell := self._cell(i)) is not None]
        if self.grid:
            targets += [self._sheet(".png"), *(self._sheet(f".{kind}") for kind in self.extras.moving)]
        if self.extras.stages:
            targets += [self._strip(i, f".{kind}") for i in range(self.count) for kind in ("png", *self._films)]
        for target in targets:
            check_target(target, force=force)

    def write(self, i: int, one: Drawn) -> None:
        cell = self._cell(i)
        if cell is not None:
            self._put(cell, png(one.picture, one.settings))
        if one.stages:
            labels, stages = zip(*spaced(one.stages, _STRIP), strict=True)
            self._put(self._strip(i), _bytes(sheets.strip(stages, labels)))
            labels, stages = zip(*one.stages, strict=True)
            for kind in self._films:
                self._put(self._strip(i, f".{kind}"), moving.film(stages, labels, kind, self.extras.frame, back=False))

    def write_sheet(self, made: list[np.ndarray], grid: list[list[Shot]], extras: Extras) -> None:
        axes, width = extras.axes or {}, len(grid[0])
        columns = [f"{axes['x'].key} {value}" for value in axes["x"].values] if "x" in axes else [""]
        rows = [f"{axes['y'].key} {value}" for value in axes["y"].values] if "y" in axes else [""]
        table = [made[i : i + width] for i in range(0, len(made), width)]
        title = "" if any(axis.key == "prompt" for axis in axes.values()) else grid[0][0].prompt
        self._put(self._sheet(".png"), _bytes(sheets.table(table, columns, rows, title)))
        labels = [", ".join(text for text in (row, column) if text) for row in rows for column in columns]
        for kind in extras.moving:
            self._put(self._sheet(f".{kind}"), moving.film(made, labels, kind, extras.frame))

    def _put(self, target: Path, data: bytes) -> None:
        write_bytes(target, data)
        self.written.append(target)


def _bytes(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def serve(
    request: Request, output: Path, lines: Iterable[str], *, loras: Sequence[str], device: str, force: bool,
    dry_run: bool, note: Note, each: Callable[[dict[str, Any]], None], changes: composed.Changes | None = None,
    extras: Extras | None = None,
) -> int:  # fmt: skip
    """Draw each line's pictures as it comes, into a folder; `each` gets one object a picture, or what was wrong with the
    line. Gives the exit status of the last line that failed, 0 without one. In a dry run the objects have no output."""
    extras = extras or Extras()
    _check_pictures(request)
    check_target(output, force=True, folder=True)
    asked = composed.read(loras, changes)
    _check_adapters(asked, changes)
    components = load_model(request.model, device, request.dtype, note, extras.tokenizer)
    session = Session(components, [asked], note, extras.limit)
    if request.tiling:
        session.components.vae.enable_tiling()
    number, status = 0, 0
    for at, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            shots = shots_of(from_line(line.strip(), request), asked)
            session.check(shots)
            for target in (output / f"{number + i:05d}.png" for i in range(len(shots))):
                check_target(target, force=force)
            if dry_run:
                number += len(shots)
                for shot in shots:
                    each({"line": at, "output": None, **session.settings(shot)})
                continue
            for one in session.draw(shots):
                target = output / f"{number:05d}.png"
                write_bytes(target, png(one.picture, one.settings))
                number += 1
                each({"line": at, "output": str(target), **one.settings})
        except LorakitError as error:
            status = error.exit_status
            each({"line": at, "error": str(error), "status": status})
    return status
