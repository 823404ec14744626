"""The difference of two stored weights, in one pass over their bytes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lorakit.arrays import SIZES, Stored, finite, same_bytes

_PIECE = 1 << 16  # values at a time: what is in work stays in the cache
_SCALE = np.float32(2.0**112)  # between the biases of the exponents of float16 and float32
_INFINITE = 65536.0  # what float16's infinity becomes
_MASK = np.int32(-0x70002000)  # the sign, and what 15 bits become 13 places up


def difference(tuned: Stored, base: Stored, out: np.ndarray) -> float | None:
    """Writes tuned - base into `out` [n], float32; the squared norm, or None where the files hold the same.

    ValueError where a value is not finite. The bytes are read a piece at a time and only compared until the first that
    differs.
    """
    kind = tuned.dtype
    alike = kind == base.dtype
    size, other = SIZES[kind], SIZES[base.dtype]
    differs, total = not alike, 0.0
    wide = np.empty((2, min(_PIECE, len(out))), np.int32)
    begin = 0
    for ours, theirs in zip(tuned.pieces(_PIECE * size), base.pieces(_PIECE * other), strict=True):
        piece = out[begin : begin + len(ours) // size]
        begin += len(piece)
        if not differs and same_bytes(ours, theirs):
            piece[:] = 0
            continue
        differs = True
        if alike and kind == "F16":
            total += _halves(ours, theirs, wide[:, : len(piece)], piece)
        else:
            with np.errstate(invalid="ignore"):  # infinity less infinity; it is told below
                np.subtract(_floats(ours, kind), _floats(theirs, base.dtype), out=piece)
            total += float(np.dot(piece, piece))
    if not math.isfinite(total):
        raise ValueError("NaN or infinity")
    return total or None


def _halves(ours: Any, theirs: Any, wide: np.ndarray, out: np.ndarray) -> float:
    """float16 bits to float32, shifted into place, and their difference's squared norm; NaN where one is not finite.

    Shifted, infinity is 65536 and NaN is beyond: only a piece whose squares add up to that needs to be looked at. Beside
    a finite number that is a difference of at least 32, which does the same for the other.
    """
    for data, work in zip((ours, theirs), wide, strict=True):
        work[:] = np.frombuffer(data, "<i2")
        np.left_shift(work, 13, out=work)
        np.bitwise_and(work, _MASK, out=work)
        values = work.view(np.float32)
        np.multiply(values, _SCALE, out=values)
    first, second = wide.view(np.float32)
    np.subtract(first, second, out=out)
    squared = float(np.dot(out, out))
    odd = (float(np.dot(first, first)) >= _INFINITE**2 and not _finite(ours)) or (
        squared >= 1000 and not _finite(theirs)
    )
    return math.nan if odd else squared


def _finite(data: Any) -> bool:
    return finite(Stored("F16", (len(data) // 2,), lambda: data))


def _floats(data: Any, dtype: str) -> np.ndarray:
    return Stored(dtype, (len(data) // SIZES[dtype],), lambda: data).float()
