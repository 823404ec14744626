"""Captions: where they are found, how a template fills."""

from pathlib import Path

from lorakit.errors import UsageError


def sidecar(picture: Path) -> str | None:
    """The text beside a picture (`x.png` and `x.txt`), stripped; None where there is none."""
    file = picture.with_suffix(".txt")
    return file.read_text(encoding="utf-8-sig").strip() if file.is_file() else None


def fill(template: str, caption: str, token: str) -> str:
    """`a photo of {token}, {caption}` filled in; what an empty caption or token leaves over is tidied."""
    try:
        text = template.format(token=token, caption=caption)
    except (KeyError, IndexError, ValueError) as error:
        raise UsageError(f"--caption-template {template!r}: only {{token}} and {{caption}} can stand in it") from error
    return " ".join(text.split()).strip(" ,")
