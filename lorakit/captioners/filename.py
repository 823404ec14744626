"""The file's name in words: `red_apple-02.jpg` is "red apple"."""

import re

from lorakit.captioners import Captions, How, Text
from lorakit.data.caption_files import one_line

LIGHT = True


def words(stem: str) -> str:
    spaced = re.sub(r"[_\-.+]+", " ", stem)
    return " ".join(re.sub(r"\s*\(?\b\d+\b\)?\s*$", "", spaced).split())


def load(how: How) -> Captions:
    return lambda shown: [Text(one_line(words(one.source.stem)).text) for one in shown]
