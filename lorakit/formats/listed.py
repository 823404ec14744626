"""Lists of numbers in JSON, [up0, down0, up1, down1, ...], as cloneofsimo's `save_lora_as_json` writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lorakit.errors import InputError
from lorakit.io.plain import json_of, read_text

_MOST = 1 << 30


def is_list(path: Path) -> bool:
    """Whether it is such a file, by its name: no other adapter is a `.json`."""
    return path.suffix.lower() == ".json"


def read(path: Path) -> dict[str, np.ndarray]:
    """The matrices by their place, "0", "1" ...; InputError that says what a file is not."""
    what = f"{path} is no list of matrices, as cloneofsimo's JSON files are"
    try:
        values = json_of(read_text(path, "adapter", _MOST))
    except ValueError as error:
        raise InputError(f"{path} is no JSON: it is {error}") from error
    if not isinstance(values, list) or not values:
        raise InputError(what)
    found: dict[str, np.ndarray] = {}
    for i, value in enumerate(values):
        try:
            found[str(i)] = np.array(value, np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"{what}: item {i}") from error
        if found[str(i)].ndim not in (2, 4):
            raise InputError(f"{what}: item {i} has {found[str(i)].ndim} dimensions")
    return found
