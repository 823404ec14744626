"""Tensors as files hold them, and as arithmetic wants them; numpy unless torch is asked for.

An `Array` is a `Stored` tensor of a file, a numpy array or a torch tensor. All three have `shape` and `ndim`; `floats`
gives any of them as numbers to calculate with, in numpy or, for a torch tensor, in torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

_CACHED = 1 << 17  # numbers worked on while they are in the cache
Array = Any  # Stored | np.ndarray | torch.Tensor: what has shape and ndim
SIZES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
_NUMPY = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "I16": "<i2",
    "U16": "<u2",
    "F16": "<f2",
    "I32": "<i4",
    "U32": "<u4",
    "F32": "<f4",
    "I64": "<i8",
    "U64": "<u8",
    "F64": "<f8",
}
_TORCH = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "I64": "int64",
    "U64": "uint64",
    "F64": "float64",
}
_COMPARED = 1 << 15  # words at a time
_OURS = {theirs: ours for ours, theirs in _TORCH.items()}


class Stored:
    """A tensor as bytes, little-endian and row by row, read when they are asked for."""

    __slots__ = ("_read", "dtype", "part", "shape")

    def __init__(
        self, dtype: str, shape: tuple[int, ...], read: Callable[[], Any], part: Callable[[int, int], Any] | None = None
    ) -> None:
        """`read` gives prod(shape) * SIZES[dtype] bytes; it is called at each use, and nothing is kept.

        part  gives the bytes from one to another of them, where that is less work than all
        """
        self.dtype, self.shape, self._read, self.part = dtype, shape, read, part

    def __repr__(self) -> str:
        return f"Stored({self.dtype}, {self.shape})"

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * SIZES[self.dtype]

    def raw(self) -> Any:
        """Its bytes."""
        return self._read()

    def pieces(self, size: int) -> Iterator[Any]:
        """Its bytes, `size` at a time; not all at once where the file lets them be read so."""
        part = self.part
        if part is None:
            whole = memoryview(self.raw()).cast("B")
            yield from (whole[at : at + size] for at in range(0, len(whole), size))
            return
        for at in range(0, self.nbytes, size):
            yield part(at, min(at + size, self.nbytes))

    def float(self) -> np.ndarray:
        """The values as a float32 array of its own (float64 stays so)."""
        data = self._read()
        if self.dtype == "F16":
            return _from_half(np.frombuffer(data, "<u2")).reshape(self.shape)
        if self.dtype == "BF16":
            return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(self.shape)
        if self.dtype.startswith("F8"):
            return _eighths(self.dtype)[np.frombuffer(data, np.uint8)].reshape(self.shape)
        values = np.frombuffer(data, _NUMPY[self.dtype]).reshape(self.shape)
        return values if self.dtype in ("F32", "F64") else values.astype(np.float32)

    def tensor(self) -> torch.Tensor:
        """The same as a torch tensor, over the bytes read."""
        import torch

        data = self._read()
        if not len(data):
            return torch.empty(self.shape, dtype=getattr(torch, _TORCH[self.dtype]))
        if memoryview(data).readonly:
            data = bytearray(data)
        return torch.frombuffer(data, dtype=getattr(torch, _TORCH[self.dtype])).reshape(self.shape)


def _from_half(bits: np.ndarray) -> np.ndarray:
    """float16 bits as float32, exactly, subnormals too: shifted into place, the exponent's bias made up by a product.

    Ten times numpy's own conversion. Infinities and NaN, whose exponent means something else, take the slow way.
    """
    if ((bits & 0x7C00) == 0x7C00).any():
        return bits.view(np.float16).astype(np.float32)
    wide = bits.view(np.int16).astype(np.int32).view(np.uint32)
    wide <<= np.uint32(13)
    wide &= np.uint32(0x8FFFE000)
    return wide.view(np.float32) * np.float32(2.0**112)


def _to_half(values: np.ndarray) -> np.ndarray:
    """float32 as float16 bits, rounded to nearest even: exponents moved and 13 bits rounded off, as integers.

    Three and a half times as fast as numpy's own conversion, which does what is left: numbers below the normal ones, and
    pieces with what overflows, infinities or NaN.
    """
    flat = values.reshape(-1)
    result = np.empty(flat.shape, "<u2")
    for at in range(0, len(flat), _CACHED):
        part = flat[at : at + _CACHED]
        bits = part.view(np.uint32)
        size = bits & np.uint32(0x7FFFFFFF)
        if size.max() >= 0x477FF000:  # 65520, the least that rounds to infinity
            with np.errstate(over="ignore"):
                result[at : at + _CACHED] = part.astype("<f2").view("<u2")
            continue
        few = np.flatnonzero(size < np.uint32(0x38800000))
        last = size >> np.uint32(13)
        last &= np.uint32(1)
        size += last
        size += np.uint32((0xFFF - 0x38000000) & 0xFFFFFFFF)
        size >>= np.uint32(13)
        sign = np.right_shift(bits, np.uint32(16), out=last)
        sign &= np.uint32(0x8000)
        size |= sign
        result[at : at + _CACHED] = size
        if len(few):
            result[at + few] = part[few].astype("<f2").view("<u2")
    return result.reshape(values.shape)


def _eighths(dtype: str) -> np.ndarray:
    """The 256 values of an 8-bit float. Micikevicius et al., 2022."""
    mantissa_bits, bias = (3, 7) if dtype == "F8_E4M3" else (2, 15)
    code = np.arange(256)
    exponent, mantissa = (code & 127) >> mantissa_bits, (code & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    values = np.where(exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent - bias))
    if dtype == "F8_E4M3":
        values[code & 127 == 127] = np.nan
    else:
        values[(exponent == 31) & (mantissa == 0)], values[(exponent == 31) & (mantissa > 0)] = np.inf, np.nan
    return np.where(code < 128, values, -values).astype(np.float32)


def is_torch(x: Array) -> bool:
    return "torch" in sys.modules and isinstance(x, sys.modules["torch"].Tensor)


def floats(x: Array) -> Any:
    """The values in float32 (float64 where they are), as numpy or, from a torch tensor, as torch."""
    if is_torch(x):
        return x.detach() if x.element_size() == 8 and x.is_floating_point() else x.detach().float()
    if isinstance(x, Stored):
        return x.float()
    return x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)


def on_host(x: Array) -> np.ndarray:
    """The values as numpy, wherever they are."""
    values = floats(x)
    return values.cpu().numpy() if is_torch(values) else values


def number(x: Array) -> float:
    """The one value of a scalar, however it is shaped and typed; ValueError where there is not exactly one."""
    if prod(x.shape) != 1:
        raise ValueError(f"expected one number, got shape {tuple(x.shape)}")
    return float(floats(x).reshape(-1)[0])


def dtype_of(x: Array) -> str:
    """As safetensors spells it: F16, BF16, F32 ..."""
    if isinstance(x, Stored):
        return x.dtype
    return type_named(str(x.dtype))


def type_named(name: str) -> str:
    """torch's or numpy's name of a type, "torch.float16" or "float16", as safetensors spells it."""
    return _OURS[name.removeprefix("torch.")]


def nbytes(x: Array) -> int:
    return prod(x.shape) * SIZES[dtype_of(x)]


def raw(x: Array) -> Any:
    """The bytes of any array, little-endian and row by row."""
    if isinstance(x, Stored):
        return x.raw()
    if is_torch(x):
        import torch

        return memoryview(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    whole = np.ascontiguousarray(x)
    return (
        whole.astype(whole.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data if whole.size else b""
    )


def stored(x: Array) -> Stored:
    """Any array as its bytes."""
    return x if isinstance(x, Stored) else Stored(dtype_of(x), tuple(x.shape), lambda: raw(x))


def same_bytes(a: Any, b: Any) -> bool:
    """Whether two buffers hold the same; compared by the word where they can be, to the first piece that differs."""
    x, y = np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8)
    if x.size != y.size:
        return False
    if x.size % 8 == 0:
        x, y = x.view(np.uint64), y.view(np.uint64)
    return all(np.array_equal(x[at : at + _COMPARED], y[at : at + _COMPARED]) for at in range(0, x.size, _COMPARED))


def cast(x: Array, dtype: str) -> Array:
    """The array in another float type, rounded to nearest even; the same object where it has that type already."""
    if dtype_of(x) == dtype:
        return x
    if is_torch(x):
        import torch

        return x.to(getattr(torch, _TORCH[dtype]))
    values = np.ascontiguousarray(floats(x)).reshape(x.shape)
    if dtype == "F16" and values.dtype == np.float32 and values.size:
        return _to_half(values).view("<f2")
    if dtype != "BF16":
        with np.errstate(over="ignore"):  # an overflow becomes an infinity, which the writer refuses by name
            return values.astype(_NUMPY[dtype])
    bits = values.astype(np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    odd = ~np.isfinite(values)
    if odd.any():
        rounded[odd] = (bits[odd] >> 16).astype("<u2") | np.where(np.isnan(values[odd]), 1, 0).astype("<u2")
    data = rounded.tobytes()
    return Stored("BF16", tuple(values.shape), lambda: data)


def changed(x: Array, dtype: str, change: Callable[[Any], Any]) -> Array:
    """change(values of x) in `dtype`; for a tensor of a file worked out when it is asked for, so that it need not fit."""
    if not isinstance(x, Stored):
        return cast(change(floats(x)), dtype)
    return Stored(dtype, x.shape, lambda: raw(cast(change(x.float()), dtype)))


def narrowed(x: Array, dtype: str) -> Array:
    """The array in another float type; single numbers, such as alpha, and integers stay as they are."""
    kind = dtype_of(x)
    if x.ndim == 0 or kind == dtype or not (kind[0] == "F" or kind == "BF16"):
        return x
    return changed(x, dtype, lambda values: values)


_EXPONENT = {"F16": (0x7C00, 10), "BF16": (0x7F80, 7)}  # its bits, and where they begin


def times_power_of_two(x: Stored, power: int) -> tuple[Stored, float] | None:
    """A half-precision tensor of a file times 2**power, worked out when it is asked for; see `shifted`."""
    found = shifted(x.raw(), x.dtype, power)
    if found is None:
        return None

    def moved() -> memoryview:
        return _moved(np.frombuffer(x.raw(), "<u2"), x.dtype, power)[0].view(np.uint8).data

    return Stored(x.dtype, x.shape, moved), found[1]


def shifted(data: Any, dtype: str, power: int) -> tuple[np.ndarray, float] | None:
    """The bits of half-precision values times 2**power, by adding to their exponents; and a bound of what rounding took,
    relative to the norm, which is 0 unless values end below the normal numbers. None where values would leave the
    type's range."""
    infinity, place = _EXPONENT[dtype]
    bits = np.frombuffer(data, "<u2")
    most = int((bits & 0x7FFF).max(initial=0))
    if most >= infinity or (most >> place) + power >= infinity >> place:
        return None
    result, lost = _moved(bits, dtype, power)
    largest = float(_wide(np.array([most], "<u2"), dtype)[0]) * 2.0**power
    return result, lost / largest if lost else 0.0


def _moved(bits: np.ndarray, dtype: str, power: int) -> tuple[np.ndarray, float]:
    """(bits of the values times 2**power, Frobenius norm of what rounding took). The few that are not normal numbers
    before and after go through float32."""
    place = _EXPONENT[dtype][1]
    result = bits + np.uint16((power << place) & 0xFFFF)
    least = (max(0, -power) + 1) << place  # normal, and normal still when it is multiplied
    odd = np.flatnonzero((bits & 0x7FFF) < least)
    if not len(odd):
        return result, 0.0
    values = _wide(bits[odd], dtype) * np.float32(2.0**power)
    result[odd] = np.frombuffer(raw(cast(values, dtype)), "<u2")
    return result, float(np.linalg.norm((_wide(result[odd], dtype) - values).astype(np.float64)))


def _wide(bits: np.ndarray, dtype: str) -> np.ndarray:
    return Stored(dtype, bits.shape, bits.tobytes).float()


def finite(x: Array) -> bool:
    """Whether no value is NaN or infinite; the exponent bits alone are read."""
    kind = dtype_of(x)
    if kind[0] != "F" and kind != "BF16":
        return True
    if is_torch(x):
        return bool(x.isfinite().all())
    if kind in _EXPONENT:
        # As integers the finite numbers of either sign come first, then infinity, then NaN.
        bits, infinity = np.frombuffer(raw(x), "<u2"), _EXPONENT[kind][0]
        return not len(bits) or bool(bits.view("<i2").max() < infinity and bits.max() < infinity + 0x8000)
    return bool(np.isfinite(floats(x)).all())
