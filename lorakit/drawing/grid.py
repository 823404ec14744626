"""The cells of a grid: one shot for each pair of values of two axes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from lorakit.bounds import MOST_PICTURES
from lorakit.composition import Composition
from lorakit.drawing.composing import changes_adapters, with_setting
from lorakit.drawing.request import SETTINGS, Shot, setting
from lorakit.errors import UsageError
from lorakit.registry import nearest


@dataclass(frozen=True)
class Axis:
    """One axis of a grid: the option that changes and its values as they are written."""

    name: str
    key: str
    values: tuple[str, ...]


_AXIS = re.compile(r"([xy]):([^=]+)=(.+)", re.DOTALL)


_RANGE = re.compile(r"([-+.\de]+):([-+.\de]+):(\d+)")


_OWN = ("weight", "schedule", "prompt", "replace", "lora", "recipe")


def read_axes(texts: Sequence[str]) -> dict[str, Axis]:
    """`x:KEY=VALUE,VALUE,...` and `y:...` by name; a value `a:b:n` is n numbers from a to b, and values that contain
    commas are told apart by |. UsageError for what is neither."""
    found: dict[str, Axis] = {}
    for text in [piece for whole in texts for piece in _pieces(whole)]:
        match = _AXIS.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"--grid {text}: expected x:KEY=VALUE,VALUE,... such as x:lora.weight=0,0.5,1")
        name, key, body = match[1], match[2].strip(), match[3]
        if name in found:
            raise UsageError(f"--grid {text}: the {name} axis is given twice")
        known = key in SETTINGS or key in _OWN or changes_adapters(key)
        if not known or key == "count":
            names = [*(k for k in SETTINGS if k != "count"), *_OWN, "lora.weight"]
            raise UsageError(
                f"--grid {text}: no axis '{key}'{nearest(key, names)} (there are: {', '.join(names)}, NAME.weight, NAME.schedule)"
            )
        found[name] = Axis(name, key, tuple(_values(body)))
    if "y" in found and "x" not in found:
        raise UsageError("--grid: there is a y axis and no x axis")
    return found


def _pieces(text: str) -> list[str]:
    return re.split(r"\s+(?=[xy]:[\w.-]+=)", text.strip())


def _values(body: str) -> list[str]:
    if match := _RANGE.fullmatch(body.strip()):
        first, last, count = float(match[1]), float(match[2]), int(match[3])
        if not 2 <= count <= MOST_PICTURES:
            raise UsageError(f"--grid {body}: a range has 2 to {MOST_PICTURES} values")
        return [f"{first + (last - first) * i / (count - 1):.6g}" for i in range(count)]
    return [value.strip() for value in body.split("|" if "|" in body else ",") if value.strip()]


def cells(axes: Mapping[str, Axis], shot: Shot, compose: Callable[[Sequence[str]], Composition]) -> list[list[Shot]]:
    """The shots of a grid, by row. compose(arguments) reads the adapters or the recipe that an axis names."""
    columns: Sequence[str | None] = axes["x"].values if "x" in axes else (None,)
    rows: Sequence[str | None] = axes["y"].values if "y" in axes else (None,)
    grid = []
    for row, column in itertools.product(rows, columns):
        cell = shot
        for name, value in (("y", row), ("x", column)):
            if value is not None:
                cell = _set(axes[name], value, cell, compose)
        grid.append(cell)
    return [grid[i : i + len(columns)] for i in range(0, len(grid), len(columns))]


def _set(axis: Axis, value: str, shot: Shot, compose: Callable[[Sequence[str]], Composition]) -> Shot:
    where = f"--grid {axis.name}:{axis.key}={value}"
    if axis.key == "prompt":
        return replace(shot, prompt=value)
    if axis.key == "replace":
        first = axis.values[0]
        if first not in shot.prompt:
            raise UsageError(f"{where}: '{first}' is not in the prompt")
        return replace(shot, prompt=shot.prompt.replace(first, value))
    if axis.key in ("lora", "recipe"):
        return replace(shot, composition=compose([value] if value != "none" else []))
    if changes_adapters(axis.key):
        return replace(shot, composition=with_setting(shot.composition, axis.key, value, where))
    field, read = SETTINGS[axis.key]
    found = setting(field, read, value, where)
    if field == "seed":
        return replace(shot, seed=found)
    return replace(shot, request=replace(shot.request, **{field: found}))
