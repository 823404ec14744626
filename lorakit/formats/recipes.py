"""Recipes: compositions as small TOML files, paths relative to the file. The README documents them.

Version 1 knows name, path, weight and sha256 of adapters; version 2 all else.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lorakit.composition import Composition, Member, curve, lbw
from lorakit.composition.module_weights import block_name
from lorakit.data.naming import shown
from lorakit.errors import InputError, LorakitError, UsageError, some
from lorakit.io import plain
from lorakit.io.files import existing_file, sha256_of
from lorakit.io.paths import check_local, file_named, relative_name
from lorakit.patterns import Pattern, Time
from lorakit.registry import COMPOSINGS, nearest

VERSIONS = (1, 2)
_OLD = {"name", "path", "weight", "sha256"}
_KEYS = {*_OLD, "schedule", "blocks", "layers", "parts", "region", "feather", "prompt"}
_MOST_BYTES = 1 << 20
_MOST_ADAPTERS = 1000
_MOST_FEATHER = 16384  # pixels, the longest side of a picture
_PARTS = ("unet", "text_encoder", "text_encoder_2")


def read(file: Path) -> Composition:
    """InputError that names what is unknown, missing, or not the file that the recipe was made with."""
    return parse(plain.read_text(file, "recipe", _MOST_BYTES), file)


def parse(text: str, file: Path) -> Composition:
    """A recipe's text; paths in it are beside `file`, which errors name."""
    try:
        recipe = plain.toml_of(text)
    except ValueError as error:
        raise InputError(f"{file}: not a recipe: {error}") from error
    version = recipe.get("lorakit")
    if version not in VERSIONS or not isinstance(recipe.get("adapter"), list) or not recipe["adapter"]:
        raise InputError(f"{file}: not a recipe: expected lorakit = {VERSIONS[-1]} and [[adapter]] tables")
    if len(recipe["adapter"]) > _MOST_ADAPTERS:
        raise InputError(f"{file}: {len(recipe['adapter']):,} adapters; a recipe has at most {_MOST_ADAPTERS:,}")
    way = recipe.get("way", "sum")
    known = {"lorakit", "adapter"} | ({"way"} if version > 1 else set())
    try:
        settings = {key: value for key, value in recipe.items() if key not in known}
        way, settings = checked_way(way, settings)
    except UsageError as error:
        raise InputError(f"{file}: {error}") from error
    members, wrong, time = list[Member](), list[str](), Time()
    for number, entry in enumerate(recipe["adapter"], 1):
        try:
            members.append(_member(file, number, entry, _KEYS if version > 1 else _OLD, time))
        except (ValueError, InputError) as error:
            wrong.append(f"adapter {number}: {error}")
    if wrong:
        raise InputError(f"{file}: {some(wrong, 3, chr(10))}")
    _check_names(file, members)
    return Composition(tuple(members), way, settings)


def checked_way(way: Any, settings: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """The way to compose and its settings, tried; UsageError where there is no such way or it does not take them."""
    import inspect

    part = COMPOSINGS[str(way)]
    taken = {name for name, p in inspect.signature(part.passes).parameters.items() if p.kind is p.KEYWORD_ONLY}
    for key, value in settings.items():
        if key not in taken:
            raise UsageError(f"unknown: {key}{nearest(key, [*taken, 'way', 'adapter'])}")
        if not _is_number(value):
            raise UsageError(f"{key} is {value!r}, expected a number")
    try:
        part.passes(0, [1.0], **settings)
    except ValueError as error:
        raise UsageError(f"{way}: {error}") from error
    return str(way), dict(settings)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_names(file: Path, members: list[Member]) -> None:
    counts = Counter(member.name for member in members)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise InputError(f"{file}: two adapters are called {some(twice, 5)}; give each a name of its own")


def _member(file: Path, number: int, entry: Any, keys: set[str], time: Time) -> Member:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise ValueError("expected a table with a path")
    unknown = sorted(set(entry) - keys)
    if unknown:
        raise ValueError("unknown: " + some([f"{key}{nearest(key, keys)}" for key in unknown], 5))
    path = _adapter(file_named(file.parent, check_local(entry["path"])))
    digest = _typed(entry, "sha256", str, None)
    if digest is not None and digest != sha256_of(path):
        raise ValueError(f"{path} is not the file the recipe was made with (sha256 differs)")
    feather = _number(entry, "feather", 0.0)
    if not 0 <= feather <= _MOST_FEATHER:
        raise ValueError(f"feather is {feather:g}, expected 0 to {_MOST_FEATHER} pixels")
    region = _typed(entry, "region", str, None)
    schedule = _typed(entry, "schedule", str, None)
    return Member(
        path, _number(entry, "weight", 1.0), _typed(entry, "name", str, path.stem),
        None if schedule is None else _told("schedule", curve.read, schedule),
        blocks_of(entry.get("blocks", {})),
        layers_of(entry.get("layers", {}), f"{file}: adapter {number}: layers", time=time), parts_of(entry.get("parts", {})),
        None if region is None else existing_file(file_named(file.parent, check_local(region)), "region"),
        feather, _typed(entry, "prompt", str, ""), digest,
    )  # fmt: skip


def _adapter(path: Path) -> Path:
    """A path where an adapter can be, which its header or folder says before any of it is read."""
    from lorakit.formats.files import check

    if not path.exists():
        raise ValueError(f"{path}: no such adapter")
    if path.suffix == ".toml":
        raise ValueError(f"{path} is a recipe, and a recipe names adapters alone; take over what it names")
    check(path)
    return path


def _told(key: str, read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except ValueError as error:
        raise ValueError(f"{key} {text!r}: {error}") from None


def _typed(entry: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = entry.get(key, default)
    if value is not default and not isinstance(value, kind):
        raise ValueError(f"{key} is {value!r}, expected text")
    return value


def _number(entry: Mapping[str, Any], key: str, default: float) -> float:
    value = entry.get(key, default)
    if not _is_number(value):
        raise ValueError(f"{key} is {value!r}, expected a number")
    return float(value)


def blocks_of(given: Any) -> dict[str, float]:
    """Of a table of block names, a preset's name, or a list of numbers. ValueError for what is none of them."""
    if isinstance(given, str):
        return lbw.blocks(given)
    if isinstance(given, list):
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
        if part not in _PARTS:
            raise ValueError(f"no part '{part}'{nearest(part, _PARTS)} (there are: {', '.join(_PARTS)})")
    return found


def _table(given: Any, key: str) -> dict[str, float]:
    if not isinstance(given, dict):
        raise ValueError(f"{key} is {given!r}, expected a table of numbers")
    for name, value in given.items():
        if not _is_number(value):
            raise ValueError(f"{key}: {name} is {value!r}, expected a number")
    return {name: float(value) for name, value in given.items()}


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
    """A TOML string: JSON's, whose escapes TOML has too; a delete character it has to be told."""
    return json.dumps(shown(text), ensure_ascii=False).replace("\x7f", "\\u007f")


def _plain(value: float) -> str:
    return repr(int(value)) if value == int(value) else repr(float(value))
