"""Recipes: compositions as small TOML files, paths relative to the file. The README documents them.

Version 1 knows name, path, weight and sha256 of adapters; version 2 all else.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.composition import Composition, Member, curve, lbw
from lorakit.composition.module_weights import PARTS, block_name
from lorakit.errors import InputError, LorakitError, UsageError, all_of, some
from lorakit.io import toml
from lorakit.io.inputs import existing_file, sha256_of
from lorakit.io.paths import check_local, file_named, relative_name
from lorakit.io.toml import Document
from lorakit.naming import shown
from lorakit.patterns import Pattern, Time
from lorakit.registry import COMPOSINGS, nearest

VERSIONS = (1, 2)
_OLD = {"name", "path", "weight", "sha256"}
_KEYS = {*_OLD, "schedule", "blocks", "layers", "parts", "region", "feather", "prompt"}
_MOST_ADAPTERS = 1000
_MOST_FEATHER = 16384  # pixels, the longest side of a picture


def read(file: Path) -> Composition:
    """InputError that names, each with its line, what is unknown, of a wrong type or missing, and what is not the file
    that the recipe was made with."""
    return _composition(toml.read(file, "recipe"))


def parse(text: str, file: Path) -> Composition:
    """A recipe's text; paths in it are beside `file`, which errors name."""
    return _composition(toml.parse(text, file, "recipe"))


def _composition(document: Document) -> Composition:
    recipe, file = document.tables, document.file
    version, entries = recipe.get("lorakit"), recipe.get("adapter")
    if type(version) is not int or version not in VERSIONS or not isinstance(entries, list) or not entries:
        raise InputError(f"{file}: not a recipe: expected lorakit = {VERSIONS[-1]} and [[adapter]] tables")
    if len(entries) > _MOST_ADAPTERS:
        raise InputError(f"{file}: {len(entries):,} adapters; a recipe has at most {_MOST_ADAPTERS:,}")
    faults: list[str] = []
    known = {"lorakit", "adapter"} | ({"way"} if version > 1 else set())
    way = recipe.get("way", "sum") if version > 1 else "sum"
    settings = {key: value for key, value in recipe.items() if key not in known}
    try:
        way, settings = checked_way(way, settings, lambda key: f"{document.place(key)}: ")
    except UsageError as error:
        faults.append(str(error))
    keys = _KEYS if version > 1 else _OLD
    time = Time()
    members = [_member(document, number, keys, faults, time) for number in range(len(entries))]
    if faults:
        raise InputError(all_of(faults))
    _check_names(file, members)
    return Composition(tuple(members), way, settings)


def checked_way(
    way: Any, settings: Mapping[str, Any], place: Callable[[str], str] = lambda key: ""
) -> tuple[str, dict[str, float]]:
    """The way to compose and its settings, tried; UsageError where there is no such way or it does not take them, with
    each fault behind the `place` of its key."""
    import inspect

    if not isinstance(way, str):
        raise UsageError(f"{place('way')}way is {way!r}, expected text")
    try:
        part = COMPOSINGS[way]
    except UsageError as error:
        raise UsageError(f"{place('way')}{error}") from None
    taken = {name for name, p in inspect.signature(part.passes).parameters.items() if p.kind is p.KEYWORD_ONLY}
    faults = [
        f"{place(key)}unknown: {key}{nearest(key, {*taken, 'way', 'adapter'} - {key})}"
        if key not in taken
        else f"{place(key)}{key} is {value!r}, expected a number"
        for key, value in settings.items()
        if key not in taken or not _is_number(value)
    ]
    if faults:
        raise UsageError(all_of(faults))
    try:
        part.passes(0, [1.0], **settings)
    except ValueError as error:
        raise UsageError(f"{place('way')}{way}: {error}") from error
    return way, dict(settings)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_names(file: Path, members: list[Member]) -> None:
    counts = Counter(member.name for member in members)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise InputError(f"{file}: two adapters are called {some(twice, 5)}; give each a name of its own")


@dataclass(frozen=True)
class _Here:
    """Where an adapter's settings stand: the recipe's folder, how errors name the adapter, and the time that all patterns
    of the recipe have together."""

    folder: Path
    where: str
    time: Time


def _member(document: Document, number: int, keys: set[str], faults: list[str], time: Time) -> Member:
    """An adapter of a recipe; what is wrong with it is added to `faults`, each with its line."""
    entry, values = document.tables["adapter"][number], {}
    place, count = document.place("adapter", number), len(faults)
    here = _Here(document.file.parent, f"{document.file}: adapter {number + 1}", time)
    if not isinstance(entry, dict) or "path" not in entry:
        faults.append(f"{place}: adapter {number + 1}: expected a table with a path")
        return Member(path=Path())
    for key, value in entry.items():
        try:
            if key not in keys:
                raise ValueError(f"unknown: {key}{nearest(key, keys)}")
            values[key] = _READERS[key](key, value, here)
        except (InputError, ValueError) as error:
            faults.append(f"{document.place('adapter', number, key)}: adapter {number + 1}: {error}")
    path, digest = values.get("path", Path()), values.get("sha256")
    if len(faults) == count and digest is not None and digest != sha256_of(path):
        told = f"{path} is not the file the recipe was made with (sha256 differs)"
        faults.append(f"{document.place('adapter', number, 'sha256')}: adapter {number + 1}: {told}")
    return Member(**{"path": path, "name": path.stem, "curve": values.pop("schedule", None), **values})


def _as_text(key: str, value: Any, here: _Here) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key} is {value!r}, expected text")
    return value


def _as_number(key: str, value: Any, here: _Here) -> float:
    if not _is_number(value):
        raise ValueError(f"{key} is {value!r}, expected a number")
    return float(value)


def _as_pixels(key: str, value: Any, here: _Here) -> float:
    pixels = _as_number(key, value, here)
    if not 0 <= pixels <= _MOST_FEATHER:
        raise ValueError(f"{key} is {pixels:g}, expected 0 to {_MOST_FEATHER} pixels")
    return pixels


def _as_file(key: str, value: Any, here: _Here) -> Path:
    return file_named(here.folder, check_local(_as_text(key, value, here)))


def _as_adapter(key: str, value: Any, here: _Here) -> Path:
    """A path where an adapter can be, which its header or folder says before any of it is read."""
    from lorakit.formats.files import check

    path = _as_file(key, value, here)
    if not path.exists():
        raise ValueError(f"{path}: no such adapter")
    if path.suffix == ".toml":
        raise ValueError(f"{path} is a recipe, and a recipe names adapters alone; take over what it names")
    check(path)
    return path


def _as_region(key: str, value: Any, here: _Here) -> Path:
    return existing_file(_as_file(key, value, here), "region")


def _as_curve(key: str, value: Any, here: _Here) -> curve.Curve:
    try:
        return curve.read(_as_text(key, value, here))
    except ValueError as error:
        raise ValueError(f"{key} {value!r}: {error}") from None


def _as_layers(key: str, value: Any, here: _Here) -> tuple[tuple[Pattern, float], ...]:
    return layers_of(value, f"{here.where}: {key}", time=here.time)


def blocks_of(given: Any) -> dict[str, float]:
    """Of a table of block names, a preset's name, or a list of numbers. ValueError for what is none of them."""
    if isinstance(given, str):
        return lbw.blocks(given)
    if isinstance(given, list):
        if not all(map(_is_number, given)):
            raise ValueError(f"blocks is {given!r}, expected numbers")
        return lbw.blocks(",".join(map(str, given)))
    found = {}
    for block, factor in _table(given, "blocks").items():
        found[block_name(block)] = factor
    return found


def layers_of(
    given: Any, where: str, error: type[LorakitError] = InputError, time: Time | None = None
) -> tuple[tuple[Pattern, float], ...]:
    """Of a table of regular expressions over module names; the rest is said to Pattern."""
    found = []
    for text, factor in _table(given, "layers").items():
        try:
            found.append((Pattern(text, where, error, time), factor))
        except ValueError as reason:
            raise ValueError(f"layers: '{text[:80]}' is no regular expression: {reason}") from None
    return tuple(found)


def parts_of(given: Any) -> dict[str, float]:
    found = _table(given, "parts")
    for part in found:
        if part not in PARTS:
            raise ValueError(f"no part '{part}'{nearest(part, PARTS)} (there are: {', '.join(PARTS)})")
    return found


def _table(given: Any, key: str) -> dict[str, float]:
    if not isinstance(given, dict):
        raise ValueError(f"{key} is {given!r}, expected a table of numbers")
    for name, value in given.items():
        if not _is_number(value):
            raise ValueError(f"{key}: {name} is {value!r}, expected a number")
    return {name: float(value) for name, value in given.items()}


# How each key of an adapter is read: (key, value, where it stands) to the value; ValueError or InputError.
_READERS: dict[str, Callable[[str, Any, _Here], Any]] = {
    "name": _as_text,
    "path": _as_adapter,
    "weight": _as_number,
    "schedule": _as_curve,
    "blocks": lambda key, value, here: blocks_of(value),
    "layers": _as_layers,
    "parts": lambda key, value, here: parts_of(value),
    "region": _as_region,
    "feather": _as_pixels,
    "prompt": _as_text,
    "sha256": _as_text,
}


def write(composition: Composition, folder: Path, notes: Mapping[str, str] | None = None) -> str:
    """The recipe's text, paths relative to `folder`; what stands at its default is left out. Notes are comments."""
    lines = [f"# {key}: {value}" for key, value in (notes or {}).items()]
    lines.append(f"lorakit = {VERSIONS[-1]}")
    if composition.way != "sum":
        lines.append(f"way = {_text(composition.way)}")
        lines += [f"{key} = {_plain(value)}" for key, value in composition.settings.items()]
    for member in composition.members:
        lines += [
            "",
            "[[adapter]]",
            f"name = {_text(member.name)}",
            f"path = {_text(relative_name(member.path.resolve(), folder.resolve()))}",
        ]
        lines.append(f"weight = {float(member.weight)!r}")
        lines.append(f"sha256 = {_text(member.sha256 or sha256_of(member.path))}")
        if member.curve is not None:
            lines.append(f"schedule = {_text(member.curve.text)}")
        for key in ("blocks", "parts"):
            table = getattr(member, key)
            if table:
                lines.append(f"{key} = {{ {', '.join(f'{_text(k)} = {_plain(v)}' for k, v in table.items())} }}")
        if member.layers:
            lines.append(f"layers = {{ {', '.join(f'{_text(k.text)} = {_plain(v)}' for k, v in member.layers)} }}")
        if member.region is not None:
            lines.append(f"region = {_text(relative_name(member.region.resolve(), folder.resolve()))}")
            lines += [f"feather = {_plain(member.feather)}"] if member.feather else []
        if member.prompt:
            lines.append(f"prompt = {_text(member.prompt)}")
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    return toml.text_of(shown(text))


def _plain(value: float) -> str:
    return repr(int(value)) if value == int(value) else repr(float(value))
