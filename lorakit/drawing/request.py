"""What is asked for, picture by picture: prompts of a file with options of their own, and the cells of a grid."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lorakit.bounds import DRAWING, check_prompt, size_of
from lorakit.composition import Composition
from lorakit.composition.curve import Curve
from lorakit.composition.curve import read as read_curve
from lorakit.drawing.composing import changes_adapters, with_setting
from lorakit.errors import InputError, UsageError
from lorakit.io.inputs import kind_of
from lorakit.io.paths import check_local
from lorakit.io.plain import json_object, read_text
from lorakit.naming import is_text, shown
from lorakit.process_config import Overrides
from lorakit.registry import nearest
from lorakit.runtime import platform
from lorakit.schedulers import SCHEDULERS, SPACINGS


@dataclass(frozen=True, kw_only=True)
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
        composition = with_setting(composition, key, value, f"prompt line {request.prompts[0][:60]!r}: {key}")
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
SETTINGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "seed": ("seed", int),
    "steps": ("steps", int),
    "guidance": ("guidance", float),
    "negative": ("negative", str),
    "scheduler": ("scheduler", _one_of("scheduler", SCHEDULERS)),
    "spacing": ("spacing", _one_of("spacing", SPACINGS)),
    "size": ("size", size_of),
    "count": ("count", int),
    "clip-skip": ("clip_skip", int),
    "strength": ("strength", float),
    "guidance-rescale": ("rescale", float),
    "guidance-until": ("guidance_until", float),
    "guidance-schedule": ("guidance_schedule", str),
    "hires": ("hires", float),
    "hires-strength": ("hires_strength", float),
    "image": ("image", lambda text: Path(check_local(text))),
}
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
        if name not in SETTINGS:
            raise UsageError(
                f"prompt line {line[:60]!r}: no option '{key}' in a line{nearest(name, [*SETTINGS, 'weight', 'schedule'])}"
            )
        field, read = SETTINGS[name]
        changes[field] = setting(field, read, value, f"prompt line {line[:60]!r}: {key} {value[:60]!r}")
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


def setting(field: str, read: Callable[[str], Any], text: str, where: str) -> Any:
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
