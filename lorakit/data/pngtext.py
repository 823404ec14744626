"""The settings of a drawn picture inside its PNG: the webuis' `parameters` line, and ours as JSON."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def parameters(settings: Mapping[str, Any]) -> str:
    """As the webuis write it: prompt, negative prompt, then one line of comma-separated fields."""
    lines = [settings["prompt"]]
    if settings.get("negative"):
        lines.append(f"Negative prompt: {settings['negative']}")
    width, height = settings["size"]
    fields = {
        "Steps": settings["steps"],
        "Sampler": settings["scheduler"],
        "CFG scale": settings["guidance"],
        "Seed": settings["seed"],
        "Size": f"{width}x{height}",
        "Model": settings["model"],
        "Version": f"lorakit {settings['version']}",
    }
    if settings.get("loras"):
        fields["Lora hashes"] = '"' + ", ".join(f"{x['name']}: {x['sha256'][:12]}" for x in settings["loras"]) + '"'
    lines.append(", ".join(f"{key}: {value}" for key, value in fields.items()))
    return "\n".join(lines)


def encode(picture: np.ndarray, settings: Mapping[str, Any]) -> bytes:
    """uint8 [h, w, 3] as PNG bytes, the same for the same picture and settings."""
    info = PngInfo()
    info.add_itxt("parameters", parameters(settings))
    info.add_itxt("lorakit", json.dumps(settings, ensure_ascii=False, sort_keys=True))
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG", pnginfo=info)
    return data.getvalue()


def read(file: Path) -> dict[str, Any] | None:
    """Our settings in a PNG; None where it has none or cannot be read to its end."""
    try:
        with Image.open(file, formats=("PNG",)) as image:
            image.load()
            return json.loads(image.info["lorakit"])
    except (OSError, KeyError, ValueError, SyntaxError):
        return None
