"""A folder to examples, whichever of the common layouts it has."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lorakit.data.captions import sidecar
from lorakit.data.images import find
from lorakit.errors import InputError
from lorakit.io.files import existing_folder

_KOHYA = re.compile(r"^(\d+)_(.+)$")


@dataclass(frozen=True)
class Example:
    """One training picture, its caption, and how often it is shown an epoch."""

    file: Path
    caption: str
    repeats: int = 1


def _from_metadata(folder: Path, file: Path) -> dict[Path, str]:
    captions = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            captions[folder / row["file_name"]] = str(row.get("text", ""))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{file}:{number}: not an object with file_name and text") from error
    missing = [str(path) for path in captions if not path.is_file()]
    if missing:
        raise InputError(f"{file} names pictures that are not there: {', '.join(missing[:3])}; run ppim again")
    return captions


def read(folder: Path, instance_prompt: str | None, note: Callable[[str], None] = lambda text: None) -> list[Example]:
    """The examples of a ppim folder or imagefolder (metadata.jsonl), kohya folders, or pictures with sidecars.

    An instance prompt replaces all captions, which is noted. InputError lists every picture without a caption.
    """
    existing_folder(folder, "training pictures")
    listed = folder / "metadata.jsonl"
    known = _from_metadata(folder, listed) if listed.is_file() else {}
    files = [file for file in (known or find(folder)) if not file.name.endswith(".mask.png")]
    examples, bare, replaced = [], [], 0
    for file in files:
        kohya = _KOHYA.match(file.relative_to(folder).parts[0]) if len(file.relative_to(folder).parts) > 1 else None
        # The sidecar rules over metadata.jsonl: it is what people edit.
        caption = sidecar(file) or known.get(file, "") or (kohya.group(2) if kohya else "")
        replaced += bool(caption) and instance_prompt is not None
        caption = instance_prompt or caption
        if not caption:
            bare.append(file.name)
        examples.append(Example(file, caption, int(kohya.group(1)) if kohya else 1))
    if not examples:
        raise InputError(f"{folder}: no pictures to train on (png, jpg, webp, bmp, tiff)")
    if bare:
        raise InputError(
            f"{folder}: {len(bare)} pictures have no caption: {', '.join(bare[:5])}{' ...' if len(bare) > 5 else ''}\n"
            "write NAME.txt beside each, or give --instance-prompt"
        )
    if replaced:
        note(f"--instance-prompt is given: the captions of {replaced} pictures are not read")
    return examples
