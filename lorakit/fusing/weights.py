"""A delta added to a weight in float32 and rounded once, a few rows at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import numpy as np

from lorakit.arrays import SIZES, Stored, cast, raw
from lorakit.delta import Delta
from lorakit.deltas.full import Full
from lorakit.errors import NumericError
from lorakit.formats.layouts.place import rows
from lorakit.merging.kernel.operands import as_numpy

_PIECE = 1 << 17  # numbers worked on at a time: what they take fits into a core's cache


@dataclass
class Sums:
    """What became of the deltas when they were rounded: <rounded change, delta> and ||delta||², by module."""

    by_module: dict[str, tuple[float, float]] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        over, under = (sum(pair[i] for pair in self.by_module.values()) for i in (0, 1))
        shares = {name: a / b for name, (a, b) in self.by_module.items() if b}
        worst = sorted(shares, key=lambda name: (shares[name], name))[:10]
        return {
            "retained": over / under if under else 1.0,
            "retained_worst": {name: shares[name] for name in worst},
            "retained_by_module": shares,
            "norms": {name: pair[1] ** 0.5 for name, pair in self.by_module.items()},
        }


@dataclass(frozen=True)
class Rounding:
    """To which type, None for each tensor's own; and whether by chance, seeded by the parameter's name."""

    dtype: str | None = None
    stochastic: bool = False
    seed: int = 0

    def of(self, x: Stored) -> str:
        return x.dtype if self.dtype is None or not is_float(x.dtype) else self.dtype

    def chance(self, name: str) -> np.random.Generator | None:
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return np.random.Generator(np.random.SFC64(int.from_bytes(digest, "little"))) if self.stochastic else None


def changed(name: str, base: Stored, delta: Delta, rounding: Rounding, sums: Sums) -> Stored:
    """The parameter with the delta added, when it is asked for; a few rows at a time."""
    dtype = rounding.of(base)

    def read() -> Any:
        out, width = flat(base.shape)
        held = Stored(base.dtype, (out, width), base.raw, base.part)
        if held.part is None:
            data = base.raw()
            held = Stored(base.dtype, (out, width), lambda: data)
        piece = _pieces(delta, held)
        result = np.empty(out * width * SIZES[dtype], np.uint8)
        chance, over, under = rounding.chance(name), 0.0, 0.0
        step, row = max(1, _PIECE // width), width * SIZES[dtype]
        for begin in range(0, out, step):
            end = min(out, begin + step)
            before, change = rows(held, begin, end).float(), piece(begin, end)
            after = before + change
            bits = _rounded(after, dtype, chance)
            result[begin * row : end * row] = np.frombuffer(bits, np.uint8)
            kept = Stored(dtype, after.shape, partial(_same_bits, bits)).float() - before
            over += float(np.vdot(kept, change))
            under += float(np.vdot(change, change))
        if not np.isfinite(under):
            raise NumericError(f"{name}: the delta is too large for float32; nothing was written")
        sums.by_module[name.removesuffix(".weight")] = over, under
        return result.data

    return Stored(dtype, base.shape, read)


def _same_bits(bits: Any) -> Any:
    return bits


def _pieces(delta: Delta, base: Stored) -> Callable[[int, int], np.ndarray]:
    """(begin, end) to those rows of the delta, [end - begin, in*kh*kw] in float32."""
    if isinstance(delta, Full) and isinstance(delta.diff, Stored):
        held = Stored(delta.diff.dtype, base.shape, delta.diff.raw)
        return lambda begin, end: _single(rows(held, begin, end).float())
    product = delta.product(base)
    if isinstance(product, tuple):
        up, down = (_single(as_numpy(x)) for x in product)
        return lambda begin, end: up[begin:end] @ down
    dense = _single(as_numpy(product)).reshape(base.shape)
    return lambda begin, end: dense[begin:end]


def _single(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32, copy=False)


def _rounded(values: np.ndarray, dtype: str, chance: np.random.Generator | None) -> Any:
    """The bytes of float32 values in `dtype`; by chance up or down, so that the mean is the value, where asked for."""
    if chance is not None and dtype in ("F16", "BF16"):
        values = _by_chance(values, dtype, chance)
    return raw(cast(values, dtype))


def _by_chance(values: np.ndarray, dtype: str, chance: np.random.Generator) -> np.ndarray:
    """Float32 values moved to one of the two neighbours that `dtype` has, the nearer the likelier.

    The bits that are cut are compared with as many random ones by adding these: a carry rounds up. A value that `dtype`
    has stays. Connolly, Higham and Mary, 2021.
    """
    cut = 16 if dtype == "BF16" else 13
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    noise = np.frombuffer(chance.bytes(2 * bits.size), "<u2").reshape(bits.shape).astype(np.uint32) >> (16 - cut)
    moved = ((bits + noise) & np.uint32(0xFFFFFFFF << cut & 0xFFFFFFFF)).view(np.float32)
    if dtype == "F16":  # below its normal numbers the steps are equal
        small = np.abs(values) < 2.0**-14
        if small.any():
            steps = values[small].astype(np.float64) * 2.0**24
            moved[small] = (np.floor(steps + chance.random(steps.shape)) * 2.0**-24).astype(np.float32)
    odd = ~np.isfinite(values)
    moved[odd] = values[odd]
    return moved


def typed(x: Stored, rounding: Rounding) -> Stored:
    wanted = rounding.of(x)
    return x if wanted == x.dtype else Stored(wanted, x.shape, lambda: raw(cast(x.float(), wanted)))


def is_float(dtype: str) -> bool:
    return dtype[0] == "F" or dtype == "BF16"


def flat(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], prod(shape[1:])
