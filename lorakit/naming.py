"""Names of the files that are written, from the paths of their sources: plain, and each its own."""

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

_PLAIN = frozenset("._- ()&',@=")  # beside letters and digits; `+` is kept for copies
_ESCAPE = re.compile(rb"\\x([89a-f][0-9a-f])")
_LONGEST = 160  # bytes, so that suffixes and temporary names still fit into 255
# Names of devices on Windows, whatever suffix follows them.
_DEVICES = frozenset(
    (
        "con",
        "prn",
        "aux",
        "nul",
        "conin$",
        "conout$",
        *(f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³"),
    )
)


def shown(path: str) -> str:
    """A path as text that can be written as UTF-8: bytes that are none are spelt as escapes, \\xNN."""
    if path.isascii():
        return path
    try:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character, out of a JSON file and not out of a path
        return path.encode("utf-8", "backslashreplace").decode()


def undone(text: str) -> str:
    """The path that `shown` spelt, where its escapes stand for bytes."""
    return os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), os.fsencode(text)))


def is_text(text: str) -> bool:
    """Whether all of it can be written as UTF-8 as it stands: no bytes of a path or an input that are none."""
    return shown(text) == text


def spelled(value: Any) -> Any:
    """Plain values, as JSON has them, with every text `shown`."""
    if isinstance(value, str | os.PathLike):
        return shown(os.fspath(value))
    if isinstance(value, Mapping):
        return {shown(key) if isinstance(key, str) else key: spelled(one) for key, one in value.items()}
    return [spelled(one) for one in value] if isinstance(value, list | tuple) else value


def plain(path: str) -> str:
    """The stem of an output: the path below RAW with dashes for slashes, and without what shells or systems choke on.

    The stem is the same on every system, and a name on each: none is a device of Windows or ends in a dot or a space.
    """
    stem, _ = os.path.splitext(shown(path))
    text = unicodedata.normalize("NFC", stem.replace("/", "-"))
    text = "".join(c if c.isalnum() or c in _PLAIN else "_" for c in text).strip(" ")
    text = text.encode("utf-8")[:_LONGEST].decode("utf-8", "ignore")
    if text[:1] in ("-", ".", ""):
        text = f"_{text[1:]}"
    if text.partition(".")[0].rstrip(" ").lower() in _DEVICES:
        text = f"_{text}"
    return f"{text[:-5]}_mask" if text.lower().endswith(".mask") else text.rstrip(". ") or "_"


def names(paths: Sequence[str]) -> list[str]:
    """An output stem for each path; where some agree (also but for case), the suffix tells them apart, else a hash."""
    import hashlib  # brings OpenSSL, and the command line imports this module for every answer

    def told_apart(stems: list[str], more: list[str]) -> list[str]:
        folded = [stem.casefold() for stem in stems]
        counts: dict[str, int] = {}
        for stem in folded:
            counts[stem] = counts.get(stem, 0) + 1
        return [s if counts[f] == 1 else f"{s}-{m}" for s, f, m in zip(stems, folded, more, strict=True)]

    stems = [plain(path) for path in paths]
    suffixes = [plain(os.path.splitext(path)[1].lstrip(".").lower() or "x") for path in paths]
    hashes = [hashlib.sha256(os.fsencode(path)).hexdigest()[:8] for path in paths]
    return told_apart(told_apart(stems, suffixes), hashes)
