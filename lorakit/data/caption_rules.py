"""Rules that make a caption fit to train on: cleaned, words replaced."""

import re
from collections.abc import Sequence

from lorakit.data.trigger_words import by_itself

# "arafed" is no word: BLIP's large checkpoint learnt it from its data and begins thousands of captions with it.
_ARTEFACTS = re.compile(r"\b(?:arafed|araffe|arafe|araffes)\b\s*", re.IGNORECASE)
_REPEATED = re.compile(r"\b(\w+(?: \w+){0,3})(?:,? \1\b)+", re.IGNORECASE)
_BEGINNINGS = re.compile(r"^(?:there (?:is|are) (?=an? |the |some |two |three |many )|this is )", re.IGNORECASE)


def clean(caption: str) -> str:
    """What a captioning model said, without its tics: artefact words, words said over again, "there is", a full stop."""
    text = _BEGINNINGS.sub("", _ARTEFACTS.sub("", " ".join(caption.split())))
    return _REPEATED.sub(r"\1", text).strip(" .,")


def replace(caption: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Whole words or phrases by others, in the order given, whatever their case."""
    for old, new in pairs:
        plain = new.replace("\\", r"\\")
        caption = re.sub(by_itself(old), plain, caption, flags=re.IGNORECASE)
    return " ".join(caption.split())
