"""Embeddings that AUTOMATIC1111's webui hides in its pictures: as text beside the pixels, or in the pixels at both edges.

Both are JSON with numbers in lists, read as data: `sd-ti-embedding` is base64 of it; at the edges it is compressed, four
bits in each colour of a pixel, mixed with a fixed row of numbers, behind a black column on either side of the picture.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.data.decode import BadPicture
from lorakit.data.images import stored
from lorakit.errors import InputError
from lorakit.io.plain import json_of

_TEXT, _TENSOR = "sd-ti-embedding", "TORCHTENSOR"
_MOST = 64 << 20  # bytes of JSON; 75 vectors of SDXL are three million
_MOST_MIXED = 16 << 20  # colours at the edges


def contents(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """(tensors, metadata) of the embedding in a picture, as those of the webui's .pt files; InputError where there is none
    or it is damaged."""
    try:
        picture = stored(path, ("PNG",))
    except BadPicture as error:
        raise InputError(f"{path}: {error}") from error
    try:
        text = picture.info.get(_TEXT)
        data = _of_text(text) if isinstance(text, str) else _of_pixels(np.asarray(picture.convert("RGB")))
        if data is None:
            raise InputError(f"{path} is a picture, and there is no embedding in it")
        return _flat(json_of(data))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the embedding in the picture is damaged: {error}") from error


def _of_text(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64 ({error})") from error


def _of_pixels(pixels: np.ndarray) -> bytes | None:
    """The JSON at the edges of uint8 [h, w, 3]; None where no black columns part them from a picture."""
    lit: np.ndarray = np.asarray((pixels > 0).all(2))
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    if not len(rows):
        return None
    low = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & 15
    black = np.flatnonzero(low.sum((0, 2)) == 0)
    if len(black) < 2:
        return None
    left, right = low[:, : black[0]], low[:, black[-1] + 1 :]
    if left.shape != right.shape or not left.size or left.size > _MOST_MIXED:
        return None
    mixed = _mixing(left.size).reshape(left.shape)
    packed = ((right ^ mixed) << 4 | (left ^ mixed)).astype(np.uint8).tobytes()
    reader = zlib.decompressobj()
    try:
        data = reader.decompress(packed, _MOST)
    except zlib.error:
        return None
    if not reader.eof:
        raise ValueError(f"it is cut short, or has more than {_MOST:,} bytes")
    return data


def _mixing(count: int) -> np.ndarray:
    """The first numbers of x -> 1664525 x + 1013904223 modulo 2**32 from 0, each modulo 255, their low four bits."""
    made, factor, summand = np.array([1013904223], np.uint64), 1664525, 1013904223
    while len(made) < count:
        more = (made * np.uint64(factor) + np.uint64(summand)) & np.uint64(0xFFFFFFFF)
        made = np.concatenate([made, more])
        factor, summand = factor * factor % 2**32, summand * (factor + 1) % 2**32
    return (made[:count] % np.uint64(255)).astype(np.uint8) & 15


def _flat(tree: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors by dotted key, and the texts and numbers beside them, as those of a .pt file."""
    tensors: dict[str, Any] = {}
    notes: dict[str, str] = {}

    def walk(value: Any, key: str) -> None:
        if isinstance(value, dict) and _TENSOR in value:
            tensors[key] = _numbers(value[_TENSOR], key)
        elif isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, f"{key}.{name}" if key else str(name))
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            notes[key] = str(value)

    walk(tree, "")
    if not tensors:
        raise ValueError("it has no vectors")
    return tensors, notes


def _numbers(value: Any, key: str) -> np.ndarray:
    try:
        found = np.array(value, np.float32)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{key} is no table of numbers") from None
    return found
