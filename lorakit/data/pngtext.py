"""The settings of a drawn picture inside its PNG: the webuis' `parameters` line, and ours as JSON."""

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lorakit.bounds import DRAWING, Bound, check_prompt, check_size
from lorakit.composition.curve import read as read_curve
from lorakit.data import prompt_tags
from lorakit.data.images import BadPicture, stored
from lorakit.errors import InputError, some
from lorakit.io.paths import check_local, file_named
from lorakit.io.plain import json_object
from lorakit.naming import spelled
from lorakit.process_config import KINDS
from lorakit.schedulers import SCHEDULERS, SPACINGS, USUAL

# Our schedulers and spacings as the webuis call them; of the names that are read, more than one is ours.
_SAMPLERS = {
    "ddim": "DDIM",
    "dpm++": "DPM++ 2M",
    "dpm++-sde": "DPM++ 2M SDE",
    "euler": "Euler",
    "euler-a": "Euler a",
    "unipc": "UniPC",
    "pndm": "PLMS",
    "lcm": "LCM",
    "tcd": "TCD",
}
_SCHEDULES = {
    "leading": "DDIM",
    "trailing": "Simple",
    "linspace": "Uniform",
    "karras": "Karras",
    "exponential": "Exponential",
    "beta": "Beta",
    "sgm-uniform": "SGM Uniform",
}
_READ = {name.lower(): ours for ours, name in _SAMPLERS.items()} | {name: name for name in _SAMPLERS}
_READ |= {"dpm++ sde": "dpm++-sde"}
_READ_SCHEDULES = {name.lower(): ours for ours, name in _SCHEDULES.items()} | {name: name for name in _SCHEDULES}
_READ_SCHEDULES |= {"normal": "linspace"}
# What A1111's "Automatic" is for the samplers that have one of their own.
_AUTOMATIC = {"dpm++ 2m": "karras", "dpm++ sde": "karras", "dpm++ 2m sde": "exponential"}
# No part of these can go back far, and none begins with blanks that another place could begin with.
_FIELD = re.compile(r'([A-Z][\w ]{0,63}?):\s*+("(?:\\.|[^"\\])*+"(?=,|$)|[^,]*+)')
_MOST_TEXT = 1 << 20  # characters


def parameters(settings: Mapping[str, Any]) -> str:
    """As the webuis write it: prompt, negative prompt, then one line of comma-separated fields."""
    lines = [settings["prompt"]]
    if settings.get("negative"):
        lines.append(f"Negative prompt: {settings['negative']}")
    width, height = settings["size"]
    fields = {
        "Steps": settings["steps"],
        "Sampler": _SAMPLERS[settings["scheduler"]],
        **({"Schedule type": _SCHEDULES[settings["spacing"]]} if settings.get("spacing") else {}),
        "CFG scale": settings["guidance"],
        "Seed": settings["seed"],
        "Size": f"{width}x{height}",
        "Model": settings["model"],
        **({"VAE": settings["vae"]} if settings.get("vae") else {}),
    }
    if settings.get("clip_skip", 1) > 1:
        fields["Clip skip"] = settings["clip_skip"]
    if settings.get("strength", 1) != 1:
        fields["Denoising strength"] = settings["strength"]
    if settings.get("loras"):
        fields["Lora weights"] = '"' + ", ".join(f"{x['name']}: {x['weight']:g}" for x in settings["loras"]) + '"'
        fields["Lora hashes"] = '"' + ", ".join(f"{x['name']}: {x['sha256'][:12]}" for x in settings["loras"]) + '"'
    fields["Version"] = f"lorakit {settings['version']}"
    lines.append(", ".join(f"{key}: {value}" for key, value in fields.items()))
    return "\n".join(lines)


def from_parameters(text: str) -> dict[str, Any]:
    """The settings in a webui's text: prompt, negative, steps, scheduler, spacing, guidance, seed, size, clip_skip, as many
    as are there; `loras` are (name, weight), and `tagged` is the prompt with them in it; `unread` what it says beside them that changes a picture. Numbers are checked
    as those of our own texts are; one that is none is left out."""
    lines = text.strip().split("\n")
    fields = {m[1]: m[2].strip('"') for m in _FIELD.finditer(lines[-1])}
    if "Steps" in fields:
        lines.pop()
    else:
        fields = {}
    cut = next((i for i, line in enumerate(lines) if line.startswith("Negative prompt:")), len(lines))
    prompt, negative = "\n".join(lines[:cut]), "\n".join(lines[cut:]).removeprefix("Negative prompt:").strip()
    tags = prompt_tags.adapters(prompt)
    found: dict[str, Any] = {"prompt": prompt_tags.without_adapters(prompt).strip(), "tagged": prompt if tags else ""}
    found |= {"negative": negative, "loras": [(tag.name, tag.weight) for tag in tags]}
    kinds = {
        "Steps": ("steps", int),
        "CFG scale": ("guidance", float),
        "Seed": ("seed", int),
        "Clip skip": ("clip_skip", int),
    }
    for theirs, (ours, kind) in kinds.items():
        if theirs in fields:
            try:
                found[ours] = kind(fields[theirs])
            except ValueError:
                continue
    if match := re.fullmatch(r"(\d{1,9})x(\d{1,9})", fields.get("Size", "")):
        found["size"] = [int(match[1]), int(match[2])]
    sampling, left = _sampling(fields.get("Sampler", ""), fields.get("Schedule type", ""))
    found |= sampling
    unread = ("Hires upscale", "Denoising strength", "Mask blur", "Variation seed", "VAE", "TI hashes")
    found["unread"] = [*(f"{key}: {fields[key]}" for key in unread if key in fields), *left]
    return found


def _sampling(sampler: str, schedule: str) -> tuple[dict[str, str], list[str]]:
    """Scheduler and spacing by a webui's names, and what of these is none of ours. Before A1111 1.9 the sampler's name ended
    in the schedule's: "DPM++ 2M Karras"."""
    name, kind = sampler.lower(), schedule.lower()
    for label in _READ_SCHEDULES if not kind else ():
        if name.endswith(f" {label}") and name.removesuffix(f" {label}") in _READ:
            name, kind, schedule = name.removesuffix(f" {label}"), label, label.title()
    if name not in _READ:
        given = {"Sampler": sampler, "Schedule type": schedule}
        return {}, [f"{key}: {value}" for key, value in given.items() if value]
    scheduler = _READ[name]
    spacing = _AUTOMATIC.get(name) if kind == "automatic" else _READ_SCHEDULES.get(kind)
    if spacing is None or spacing not in SCHEDULERS[scheduler].betas.spacings:
        known = kind in ("", "automatic")
        return {"scheduler": scheduler}, [] if known else [f"Schedule type: {schedule} (not with {scheduler})"]
    return {"scheduler": scheduler, "spacing": spacing}, []


def encode(picture: np.ndarray, settings: Mapping[str, Any]) -> bytes:
    """uint8 [h, w, 3] as PNG bytes, the same for the same picture and settings."""
    settings = spelled(settings)
    info = PngInfo()
    info.add_itxt("parameters", parameters(settings))
    info.add_itxt("lorakit", json.dumps(settings, ensure_ascii=False, sort_keys=True))
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG", pnginfo=info)
    return data.getvalue()


def drafted() -> PngInfo:
    """The text of a PNG that lorakit writes to be looked at: no folder of pictures takes it for one (data/own.py)."""
    info = PngInfo()
    info.add_text("Software", "lorakit")
    return info


def read(file: Path) -> dict[str, Any] | None:
    """Our settings in a PNG; None where it has none or cannot be read to its end."""
    try:
        return json_object(stored(file, ("PNG",)).info["lorakit"])
    except (BadPicture, KeyError, ValueError, TypeError):
        return None


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a PNG says of how it was drawn.

    settings    fields of a request, each of the right type and within an option's bounds
    recipe      of our adapters, a text; None where there is none
    loras       a webui's adapters, (name, weight)
    tagged      a webui's prompt with the tags for its adapters; "" where there are none
    unread      what else a webui says that changes a picture
    """

    settings: dict[str, Any]
    recipe: str | None = None
    loras: Sequence[tuple[str, float]] = ()
    unread: Sequence[str] = ()
    tagged: str = ""


def told(file: Path) -> Told | None:
    """What a PNG of ours or a webui's says; None where it says nothing. InputError lists the settings that cannot be."""
    try:
        texts = stored(file, ("PNG",)).info
    except BadPicture as error:
        raise InputError(f"{file}: {error}") from error
    ours, theirs = texts.get("lorakit"), texts.get("parameters")
    try:
        if isinstance(ours, str):
            found = json_object(_bounded(ours))
            settings = {"spacing": USUAL, **_checked(found, file)}
            return Told(
                settings={key: value for key, value in settings.items() if key != "recipe"},
                recipe=settings.get("recipe"),
            )
        if isinstance(theirs, str):
            found = from_parameters(_bounded(theirs))
            return Told(
                settings=_checked(found, file),
                recipe=None,
                loras=found["loras"],
                unread=found["unread"],
                tagged=found["tagged"],
            )
    except ValueError as error:
        raise InputError(f"{file}: the text in it cannot be read: {error}") from error
    return None


def _bounded(text: str) -> str:
    if len(text) > _MOST_TEXT:
        raise ValueError(f"it has {len(text):,} characters; at most {_MOST_TEXT:,} are read")
    return text


def _checked(found: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The settings that a request has; InputError that lists those of another type or out of bounds."""
    if "prompt" not in found:
        raise InputError(f"{file}: its text has no prompt")
    settings = {}
    wrong = [
        f"{name[:40]!r} is no setting that this lorakit knows" for name in found.keys() - _SETTINGS.keys() - _BESIDE
    ]
    for name in _SETTINGS.keys() & found.keys():
        try:
            settings[name] = _SETTINGS[name](found[name])
        except ValueError as error:
            wrong.append(f"{name} is {str(found[name])[:40]!r}: {error}")
    if wrong:
        raise InputError(f"{file}: {some(sorted(wrong), 3, chr(10))}")
    return settings


def _one_of(*known: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in known:
            raise ValueError(f"there are {', '.join(known)}")
        return value

    return check


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("expected text")
    return value


def _curve(value: Any) -> str:
    read_curve(_text(value))
    return value


def _path(value: Any) -> Path:
    return file_named(Path(), check_local(_text(value)))


_BESIDE = {"loras", "tagged", "unread", "version"}
# What is taken over from a picture's text, by the field of a request, and how it is checked.
_SETTINGS: dict[str, Callable[[Any], Any]] = {
    **{name: bound.check for name, bound in DRAWING.items() if name != "count"},
    "prompt": check_prompt,
    "negative": check_prompt,
    "model": _text,
    "vae": _text,
    "recipe": _text,
    "size": check_size,
    "scheduler": _one_of(*SCHEDULERS),
    "spacing": _one_of(*SPACINGS),
    "dtype": _one_of("auto", "float32", "bfloat16", "float16"),
    "guidance_schedule": _curve,
    "plain": _yes_or_no,
    "cut": _yes_or_no,
    "cut_inputs": _yes_or_no,
    "tiling": _yes_or_no,
    "image": _path,
    "mask": _path,
    "prediction_type": _one_of(*KINDS),
    "zero_snr": _yes_or_no,
    "shift": Bound(float, 1e-6, 1e6).check,
}
