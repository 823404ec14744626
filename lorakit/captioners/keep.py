"""The text beside the source picture, carried over."""

from pathlib import Path

from lorakit.data.captions import sidecar


def caption(picture: Path) -> str:
    return sidecar(picture) or ""
