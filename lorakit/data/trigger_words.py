"""Which words the captions of a training set share, and how often each tag stands in them."""

from __future__ import annotations

import re
from collections.abc import Sequence


def by_itself(word: str) -> str:
    """A regular expression for a word that is no part of a longer one: \\b would not hold beside `<` and `>`."""
    return rf"(?<!\w){re.escape(word)}(?!\w)"


def contains(text: str, word: str) -> bool:
    """Whether a text has a word or phrase by itself, whatever its case."""
    return re.search(by_itself(" ".join(word.split())), " ".join(text.split()), re.IGNORECASE) is not None


def tags_of(caption: str, separator: str = ",") -> list[str]:
    """The tags of a caption, each once, as kohya counts them: without case."""
    return list(dict.fromkeys(tag for one in caption.split(separator) if (tag := one.strip().lower())))


def shared_phrase(captions: Sequence[str], separator: str = ",") -> str:
    """What all captions have that others have not: the first of their common tags, else their unusual words.

    A tag that all have is taken for the trigger word, which people write first. In sentences it is a word that is no
    English one to look at: without a vowel, or letters with digits or brackets (sks, p3rs0n, <s1>). "" where there is
    neither, and for fewer than two captions.
    """
    if len(captions) < 2:
        return ""
    common = set(tags_of(captions[0], separator)).intersection(*(tags_of(one, separator) for one in captions[1:]))
    for tag in captions[0].split(separator):
        if tag.strip().lower() in common:
            return tag.strip()
    words = [_words(caption) for caption in captions]
    everywhere = set(map(str.lower, words[0])).intersection(*(map(str.lower, others) for others in words[1:]))
    return " ".join(dict.fromkeys(word for word in words[0] if word.lower() in everywhere and _is_unusual(word)))


def _words(caption: str) -> list[str]:
    return [word for one in caption.split() if (word := one.strip(".,;:!?\"'()"))]


def _is_unusual(word: str) -> bool:
    if re.fullmatch(r"[a-z]+", word, re.IGNORECASE):
        return len(word) > 2 and not re.search(r"[aeiouy]", word, re.IGNORECASE)
    return re.fullmatch(r"[<\[{]?[a-z]\w*[\w<>\[\]{}]*", word, re.IGNORECASE) is not None and not word.isalpha()
