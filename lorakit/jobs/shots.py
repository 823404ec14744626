"""What is asked for, picture by picture: prompts of a file with options of their own, and the cells of a grid."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lorakit.bounds import DRAWING, MOST_PICTURES, check_prompt, size_of
from lorakit.composition import Composition
from lorakit.composition.curve import Curve
from lorakit.composition.curve import read as read_curve
from lorakit.composition.module_weights import number
from lorakit.data.naming import is_text, shown
from lorakit.errors import InputError, UsageError
from lorakit.io.inputs import kind_of
from lorakit.io.paths import check_local
from lorakit.io.plain import json_object, read_text
from lorakit.process_config import Overrides
from lorakit.registry import nearest
from lorakit.runtime import platform
from lorakit.schedulers import SCHEDULERS, SPACINGS


@dataclass(frozen=True)
class Request:
    """What to draw: picture i of each prompt from seed + i alone.

    guidance_schedule, until, rescale    guidance over the denoising; the share after which there is none; how far
                                         towards the spread without it
    plain, cut, clip_skip                how prompts are read (models/prompts.py)
    image, strength, mask                a picture to start from, and what of it is drawn anew (white)
    hires, hires_strength                drawn so many times larger from the first drawing, with this strength
    dtype, tiling                        what the model calculates in; its autoencoder works on tiles
    prediction_type, zero_snr, shift     what the user says of the model in place of what it says itself
    spacing                              of the steps (lorakit/schedulers.py); None as the model says
    vae                                  another autoencoder than the model's own
    cut_inputs                           an inpainting adapter's first layer is cut for a model that is none
    acting                               weights and schedules of adapters, by `NAME.weight` and so on, of these prompts alone
    """

    prompts: Sequence[str]
    count: int
    seed: int
    negative: str
    model: str
    size: tuple[int, int] | None
    steps: int
    guidance: float
    scheduler: str
    batch_size: int
    guidance_schedule: str | None = None
    guidance_until: float = 1.0
    rescale: float = 0.0
    plain: bool = False
    cut: bool = False
    clip_skip: int = 1
    image: Path | None = None
    strength: float = 1.0
    mask: Path | None = None
    hires: float = 1.0
    hires_strength: float = 0.5
    dtype: str = "auto"
    tiling: bool = False
    prediction_type: str | None = None
    zero_snr: bool | None = None
    shift: float | None = None
    spacing: str | None = None
    vae: str | None = None
    cut_inputs: bool = False
    acting: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for text in (*self.prompts, self.negative):
            if not is_text(text):
                raise UsageError(f"the prompt '{shown(text[:60])}' is not UTF-8 text")

    @property
    def wanted(self) -> Overrides:
        return Overrides(self.prediction_type, self.zero_snr, self.shift)

    def of_model(self, wanted: Overrides) -> Request:
        """The same of a model of which this is said."""
        return replace(self, prediction_type=wanted.prediction, zero_snr=wanted.zero_snr, shift=wanted.shift)

    def curve(self) -> Curve | None:
        if self.guidance_schedule is None:
            return None
        try:
            return read_curve(self.guidance_schedule)
        except ValueError as error:
            raise UsageError(f"--guidance-schedule {self.guidance_schedule}: {error}") from None


@dataclass(frozen=True)
class Shot:
    """One picture: how it is asked for, its prompt and seed, and the adapters it is drawn with."""

    request: Request
    prompt: str
    seed: int
    composition: Composition = field(default_factory=Composition)


def shots_of(request: Request, composition: Composition) -> list[Shot]:
    for key, value in request.acting:
        composition = _changed(composition, key, value, f"prompt line {request.prompts[0][:60]!r}: {key}")
    return [
        Shot(request, prompt, request.seed + i, composition) for prompt in request.prompts for i in range(request.count)
    ]


def _one_of(what: str, known: Iterable[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in known:
            raise ValueError(f"no such {what}{nearest(text, known)} (there are: {', '.join(known)})")
        return text

    return read


# What a line of prompts and an axis of a grid may set, by the option's name: (field of Request, how it is read).
_SETTINGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "seed": ("seed", int), "steps": ("steps", int), "guidance": ("guidance", float), "negative": ("negative", str),
    "scheduler": ("scheduler", _one_of("scheduler", SCHEDULERS)), "spacing": ("spacing", _one_of("spacing", SPACINGS)),
    "size": ("size", size_of), "count": ("count", int),
    "clip-skip": ("clip_skip", int), "strength": ("strength", float), "guidance-rescale": ("rescale", float),
    "guidance-until": ("guidance_until", float), "guidance-schedule": ("guidance_schedule", str),
    "hires": ("hires", float), "hires-strength": ("hires_strength", float), "image": ("image", lambda text: Path(check_local(text))),
}  # fmt: skip
# sd-scripts' letters for some of them; width and height are two of theirs.
_LETTERS = {"n": "negative", "d": "seed", "l": "guidance", "s": "steps", "ds": "scheduler", "am": "weight"}


def from_line(line: str, request: Request) -> Request:
    """The request with a line's prompt and options: `a cat --seed 3 --negative "blurry"`, sd-scripts' `--n --d --l --s
    --w --h`, or a JSON object. UsageError that names what is not understood."""
    if line.startswith("{"):
        try:
            given = json_object(line)
        except ValueError as error:
            raise UsageError(f"prompt line {line[:60]!r}: not JSON: {error}") from error
        prompt = given.pop("prompt", None)
        if not isinstance(prompt, str):
            raise UsageError(f"prompt line {line[:60]!r}: it has no prompt")
        options = {_named(str(key)): str(value) for key, value in given.items()}
    else:
        match = re.search(r"(?:^|\s)--[a-z]", line)
        prompt = line if match is None else line[: match.start()]
        options = _options(line[match.start() :]) if match else {}
    width, height = options.pop("w", None), options.pop("h", None)
    if width or height:
        options["size"] = f"{width or height}x{height or width}"
    changes: dict[str, Any] = {}
    for key, value in options.items():
        name = _LETTERS.get(key, key)
        if changes_adapters(name):
            changes["acting"] = (*changes.get("acting", ()), (name, value))
            continue
        if name not in _SETTINGS:
            raise UsageError(
                f"prompt line {line[:60]!r}: no option '{key}' in a line{nearest(name, [*_SETTINGS, 'weight', 'schedule'])}"
            )
        field, read = _SETTINGS[name]
        changes[field] = _setting(field, read, value, f"prompt line {line[:60]!r}: {key} {value[:60]!r}")
    try:
        check_prompt(changes.get("negative", ""))
        return replace(request, prompts=[check_prompt(prompt.strip())], **changes)
    except ValueError as error:
        raise UsageError(f"prompt line {line[:60]!r}: {error}") from None


def _named(key: str) -> str:
    return key if changes_adapters(key) else key.replace("_", "-")


def _options(text: str) -> dict[str, str]:
    try:
        words = platform.words(text)
    except ValueError as error:
        raise UsageError(f"prompt line {text[:60]!r}: {error}") from error
    found: dict[str, str] = {}
    key = ""
    for word in words:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            found[key] = value if equals else ""
        else:
            found[key] = f"{found[key]} {word}".strip()
    return found


def _setting(field: str, read: Callable[[str], Any], text: str, where: str) -> Any:
    """The value of a request's field; UsageError for one that the option would not take."""
    try:
        value = read(text)
        return DRAWING[field].check(value) if field in DRAWING else value
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def read_prompts(file: str) -> list[str]:
    """The lines of a file of prompts; empty ones and those that begin with # are left out."""
    if kind_of(file) == "a pipe":
        raise InputError(f"--prompts {file} is a pipe; --prompts - reads prompts as they come, from standard input")
    lines = [line.strip() for line in read_text(file, "the file of --prompts").splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise InputError(f"--prompts {file}: no prompts in it")
    return found


@dataclass(frozen=True)
class Axis:
    """One axis of a grid: the option that changes and its values as they are written."""

    name: str
    key: str
    values: tuple[str, ...]


_AXIS = re.compile(r"([xy]):([^=]+)=(.+)", re.DOTALL)
_RANGE = re.compile(r"([-+.\de]+):([-+.\de]+):(\d+)")
_OWN = ("weight", "schedule", "prompt", "replace", "lora", "recipe")


def read_axes(texts: Sequence[str]) -> dict[str, Axis]:
    """`x:KEY=VALUE,VALUE,...` and `y:...` by name; a value `a:b:n` is n numbers from a to b, and values that contain
    commas are told apart by |. UsageError for what is neither."""
    found: dict[str, Axis] = {}
    for text in [piece for whole in texts for piece in _pieces(whole)]:
        match = _AXIS.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"--grid {text}: expected x:KEY=VALUE,VALUE,... such as x:lora.weight=0,0.5,1")
        name, key, body = match[1], match[2].strip(), match[3]
        if name in found:
            raise UsageError(f"--grid {text}: the {name} axis is given twice")
        known = key in _SETTINGS or key in _OWN or changes_adapters(key)
        if not known or key == "count":
            names = [*(k for k in _SETTINGS if k != "count"), *_OWN, "lora.weight"]
            raise UsageError(
                f"--grid {text}: no axis '{key}'{nearest(key, names)} (there are: {', '.join(names)}, NAME.weight, NAME.schedule)"
            )
        found[name] = Axis(name, key, tuple(_values(body)))
    if "y" in found and "x" not in found:
        raise UsageError("--grid: there is a y axis and no x axis")
    return found


def _pieces(text: str) -> list[str]:
    return re.split(r"\s+(?=[xy]:[\w.-]+=)", text.strip())


def _values(body: str) -> list[str]:
    if match := _RANGE.fullmatch(body.strip()):
        first, last, count = float(match[1]), float(match[2]), int(match[3])
        if not 2 <= count <= MOST_PICTURES:
            raise UsageError(f"--grid {body}: a range has 2 to {MOST_PICTURES} values")
        return [f"{first + (last - first) * i / (count - 1):.6g}" for i in range(count)]
    return [value.strip() for value in body.split("|" if "|" in body else ",") if value.strip()]


def cells(axes: Mapping[str, Axis], shot: Shot, compose: Callable[[Sequence[str]], Composition]) -> list[list[Shot]]:
    """The shots of a grid, by row. compose(arguments) reads the adapters or the recipe that an axis names."""
    columns: Sequence[str | None] = axes["x"].values if "x" in axes else (None,)
    rows: Sequence[str | None] = axes["y"].values if "y" in axes else (None,)
    grid = []
    for row, column in itertools.product(rows, columns):
        cell = shot
        for name, value in (("y", row), ("x", column)):
            if value is not None:
                cell = _set(axes[name], value, cell, compose)
        grid.append(cell)
    return [grid[i : i + len(columns)] for i in range(0, len(grid), len(columns))]


def _set(axis: Axis, value: str, shot: Shot, compose: Callable[[Sequence[str]], Composition]) -> Shot:
    where = f"--grid {axis.name}:{axis.key}={value}"
    if axis.key == "prompt":
        return replace(shot, prompt=value)
    if axis.key == "replace":
        first = axis.values[0]
        if first not in shot.prompt:
            raise UsageError(f"{where}: '{first}' is not in the prompt")
        return replace(shot, prompt=shot.prompt.replace(first, value))
    if axis.key in ("lora", "recipe"):
        return replace(shot, composition=compose([value] if value != "none" else []))
    if changes_adapters(axis.key):
        return replace(shot, composition=_changed(shot.composition, axis.key, value, where))
    field, read = _SETTINGS[axis.key]
    found = _setting(field, read, value, where)
    if field == "seed":
        return replace(shot, seed=found)
    return replace(shot, request=replace(shot.request, **{field: found}))


def changes_adapters(key: str) -> bool:
    """Whether an axis of a grid or an option of a line changes how an adapter acts."""
    return key.rpartition(".")[2] in ("weight", "schedule")


def _changed(composition: Composition, key: str, value: str, where: str) -> Composition:
    """Adapters with another weight or schedule: `lora.weight`, `weight` is every adapter's, `NAME.weight` one's."""
    if key.endswith("weight"):
        changes: dict[str, Any] = {"weight": number(value, where)}
    else:
        changes = {"curve": _setting("curve", read_curve, value, where)}
    name = key.rpartition(".")[0]
    members = composition.members
    names = [member.name for member in members]
    if not members:
        raise UsageError(f"{where}: there is no adapter; give one with --lora")
    if name and name != "lora" and name not in names:
        raise UsageError(f"{where}: no adapter '{name}'{nearest(name, names)} (there are: {', '.join(names)})")
    every = name in ("", "lora") and name not in names
    changed = tuple(replace(m, **changes) if every or m.name == name else m for m in members)
    return replace(composition, members=changed)
