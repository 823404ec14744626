"""No caption of its own; the template alone speaks."""

from pathlib import Path


def caption(picture: Path) -> str:
    return ""
