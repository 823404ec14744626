"""The settings of a drawn picture inside its PNG: the webuis' `parameters` line, and ours as JSON."""

import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lorakit.data.naming import spelled
from lorakit.errors import InputError
from lorakit.io.files import open_to_read

# Our schedulers as the webuis call them; of the names that are read, more than one is ours.
_SAMPLERS = {
    "ddim": "DDIM", "dpm++": "DPM++ 2M", "euler": "Euler", "euler-a": "Euler a", "unipc": "UniPC", "pndm": "PLMS",
    "lcm": "LCM",
}  # fmt: skip
_READ = {name.lower(): ours for ours, name in _SAMPLERS.items()} | {name: name for name in _SAMPLERS}
_READ |= {"dpm++ 2m karras": "dpm++", "dpm++ sde": "dpm++", "dpm++ 2m sde": "dpm++", "dpm++ 2m sde karras": "dpm++"}
_FIELD = re.compile(r'\s*([A-Z][\w ]*?):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
_LORA = re.compile(r"\s*<lora:([^:>]+):([-+.\d]+)>")


def parameters(settings: Mapping[str, Any]) -> str:
    """As the webuis write it: prompt, negative prompt, then one line of comma-separated fields."""
    lines = [settings["prompt"]]
    if settings.get("negative"):
        lines.append(f"Negative prompt: {settings['negative']}")
    width, height = settings["size"]
    fields = {
        "Steps": settings["steps"],
        "Sampler": _SAMPLERS[settings["scheduler"]],
        "CFG scale": settings["guidance"],
        "Seed": settings["seed"],
        "Size": f"{width}x{height}",
        "Model": settings["model"],
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
    """The settings in a webui's text: prompt, negative, steps, scheduler, guidance, seed, size, clip_skip, as many as
    are there; `loras` are (name, weight); `unread` what it says beside them that changes a picture."""
    lines = text.strip().split("\n")
    fields = {m[1]: m[2].strip('"') for m in _FIELD.finditer(lines[-1])}
    if "Steps" in fields:
        lines.pop()
    else:
        fields = {}
    cut = next((i for i, line in enumerate(lines) if line.startswith("Negative prompt:")), len(lines))
    prompt, negative = "\n".join(lines[:cut]), "\n".join(lines[cut:]).removeprefix("Negative prompt:").strip()
    found: dict[str, Any] = {"prompt": _LORA.sub("", prompt).strip(), "negative": negative}
    found["loras"] = [(name, float(weight)) for name, weight in _LORA.findall(prompt)]
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
    if match := re.fullmatch(r"(\d+)x(\d+)", fields.get("Size", "")):
        found["size"] = [int(match[1]), int(match[2])]
    sampler = fields.get("Sampler", "")
    if sampler.lower() in _READ:
        found["scheduler"] = _READ[sampler.lower()]
    unread = ("Hires upscale", "Denoising strength", "Mask blur", "Variation seed")
    found["unread"] = [f"{key}: {fields[key]}" for key in unread if key in fields]
    if sampler and "scheduler" not in found:
        found["unread"].append(f"Sampler: {sampler}")
    return found


def encode(picture: np.ndarray, settings: Mapping[str, Any]) -> bytes:
    """uint8 [h, w, 3] as PNG bytes, the same for the same picture and settings."""
    settings = spelled(settings)
    info = PngInfo()
    info.add_itxt("parameters", parameters(settings))
    info.add_itxt("lorakit", json.dumps(settings, ensure_ascii=False, sort_keys=True))
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG", pnginfo=info)
    return data.getvalue()


def read(file: Path) -> dict[str, Any] | None:
    """Our settings in a PNG; None where it has none or cannot be read to its end."""
    try:
        with os.fdopen(open_to_read(file, "picture"), "rb") as opened, Image.open(opened, formats=("PNG",)) as image:
            image.load()
            return json.loads(image.info["lorakit"])
    except (OSError, KeyError, ValueError, SyntaxError, InputError):
        return None


def read_any(file: Path) -> tuple[dict[str, Any], bool] | None:
    """(settings, whether they are ours) of a PNG of ours or a webui's; None where it has none."""
    ours = read(file)
    if isinstance(ours, dict):
        return ours, True
    try:
        with os.fdopen(open_to_read(file, "picture"), "rb") as opened, Image.open(opened, formats=("PNG",)) as image:
            image.load()
            text = image.info.get("parameters")
    except (OSError, ValueError, SyntaxError):
        return None
    return (from_parameters(text), False) if isinstance(text, str) else None
