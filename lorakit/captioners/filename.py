"""The file's name in words: `red_apple-02.jpg` is "red apple"."""

import re
from pathlib import Path


def caption(picture: Path) -> str:
    words = re.sub(r"[_\-.+]+", " ", picture.stem)
    return " ".join(re.sub(r"\s*\(?\b\d+\b\)?\s*$", "", words).split())
