"""The file's name in words: `red_apple-02.jpg` is "red apple"."""

import re

from lorakit.captioners import Caption, CaptionerSettings, Captions
from lorakit.data.caption_files import one_line

LIGHT = True


def words(stem: str) -> str:
    spaced = re.sub(r"[_\-.+]+", " ", stem)
    return " ".join(re.sub(r"\s*\(?\b\d+\b\)?\s*$", "", spaced).split())


def load(how: CaptionerSettings) -> Captions:
    return lambda shown: [Caption(one_line(words(one.source.stem)).text) for one in shown]
