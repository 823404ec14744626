"""Adapters of architectures without tables, whose names are all that is known: one spelling for all of a job's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorakit.adapter import Adapter
from lorakit.architectures import ARCHITECTURES, Architecture
from lorakit.errors import InputError
from lorakit.formats.evidence import short
from lorakit.formats.respelled import STYLES, Style, respelled
from lorakit.spellings import PREFIXES, stranger
from lorakit.talk import Note, silent
from lorakit.targets import is_known

_USUAL = "kohya"
_AS = {
    **dict.fromkeys(("peft", "diffusers-old", "xlabs"), "diffusers"),
    "lorakit": "lorakit",
    **{name: name for name in STYLES},
}


@dataclass(frozen=True)
class Named:
    """Adapters whose modules are named alike, and the file format to write."""

    adapters: list[Adapter]
    file_format: str


def has_strangers(adapter: Adapter) -> bool:
    """Whether modules of it are of an architecture without tables."""
    return any(stranger(name) is not None for name in (*adapter.modules, *adapter.biases))


def alike(given: Sequence[tuple[Path, Adapter]], families: Sequence[str], file_format: str | None, note: Note) -> Named:
    """All adapters with the names that the first of such an architecture has, in the format's spelling.

    families     that all can be for, the likeliest first
    file_format  None is that one's own for architectures without tables, and kohya's for the families
    """
    adapters = [adapter for _, adapter in given]
    lead = next((i for i, adapter in enumerate(adapters) if has_strangers(adapter)), None)
    if lead is None:
        others = (one.format for one in adapters if not all(map(is_known, (*one.modules, *one.biases))))
        return Named(adapters, file_format or next((_AS.get(name, _USUAL) for name in others), _USUAL))
    architecture = next((name for name in families if name in ARCHITECTURES), None)
    one = ARCHITECTURES[architecture] if architecture is not None else None
    file, style = given[lead][0], Style.of(adapters[lead], one)
    chosen = file_format or _own(adapters[lead], style, one)
    if file_format is None and (chosen != adapters[lead].format or not style.prefix):
        what = f"{adapters[lead].format} files" if style.prefix else "names without a prefix"
        note(f"{file}: {what} are not written here; the result is a {chosen} file (--format chooses)")
    usual = Style.of_format(chosen)
    if usual is not None and not _is_spelled(style, usual, chosen, file_format is not None and one is not None):
        style = usual
        adapters[lead] = _respelled(file, adapters[lead], architecture, style)
        style = Style.of(adapters[lead], one)
    named = [
        adapter if i == lead else _respelled(file, adapter, architecture, style)
        for i, ((file, _), adapter) in enumerate(zip(given, adapters, strict=True))
    ]
    return Named(named, chosen)


def _own(adapter: Adapter, style: Style, one: Architecture | None) -> str:
    """The format that is written of those for an adapter of this one: for the original's names ComfyUI's, whose they are,
    where nothing else says it."""
    found = _AS.get(adapter.format, _USUAL)
    return "comfy" if found == "diffusers" and one is not None and style.original and not style.prefix else found


def _is_spelled(style: Style, usual: Style, file_format: str, asked: bool) -> bool:
    """Whether names of a style can stand in a format's file; where it is asked for, whether the format has them so today."""
    if asked and (style.prefix, style.original) != (usual.prefix, usual.original):
        return False
    return style.prefix in PREFIXES and PREFIXES[style.prefix].format == file_format


def in_format(file: Path, adapter: Adapter, families: Sequence[str], file_format: str) -> Adapter:
    """An adapter with the names that a file format has for its modules."""
    if not has_strangers(adapter):
        return adapter
    return alike([(file, adapter)], families, file_format, silent).adapters[0]


def _respelled(file: Path, adapter: Adapter, architecture: str | None, style: Style) -> Adapter:
    try:
        return respelled(adapter, architecture, style)
    except ValueError as error:
        what = f" (it is for {short(architecture)})" if architecture is not None else ""
        raise InputError(f"{file}{what}: {error}") from None
