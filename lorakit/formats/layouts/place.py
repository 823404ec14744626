"""Where a parameter of a model lies: a tensor of a file, some of its rows, or its transpose."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from lorakit.arrays import SIZES, Array, Stored, stored


def counted(numbers: Iterable[str]) -> int:
    """How many numbers follow one another from 0: what lies beyond a gap is no block or layer of a model."""
    there = {int(number) for number in numbers if len(number) <= 6}
    return next(n for n in itertools.count() if n not in there)


THIRDS = 3  # OpenCLIP keeps q, k and v below each other in one tensor


@dataclass(frozen=True, kw_only=True)
class KeyRule:
    """How a layout spells one parameter.

    ours, key    "unet.conv_in.weight", "model.diffusion_model.input_blocks.0.0.weight"
    third        which of three equal bands of the tensor's rows it is; None for the whole
    transposed   the tensor is [in, out]
    point        the tensor has a 1x1 kernel, which our parameter has not
    """

    ours: str
    key: str
    third: int | None = None
    transposed: bool = False
    point: bool = False


@dataclass(frozen=True)
class ParameterPlace:
    """A parameter's rule and the file it lies in; `array` is the parameter, read when it is asked for."""

    rule: KeyRule
    file: str
    tensors: Mapping[str, Array]

    @property
    def array(self) -> Stored:
        whole = stored(self.tensors[self.rule.key])
        shape = whole.shape
        if self.rule.third is not None:
            band = shape[0] // THIRDS
            whole = rows(whole, self.rule.third * band, (self.rule.third + 1) * band)
        if self.rule.transposed:
            whole = turned(whole)
        if self.rule.point:
            whole = Stored(whole.dtype, whole.shape[:2], whole.raw, whole.part)
        return whole


def rows(x: Stored, begin: int, end: int) -> Stored:
    """Some rows of a tensor."""
    row = SIZES[x.dtype] * prod(x.shape[1:])
    first, last, part = begin * row, end * row, x.part
    if part is None:
        return Stored(x.dtype, (end - begin, *x.shape[1:]), lambda: memoryview(x.raw())[first:last])
    shape = (end - begin, *x.shape[1:])
    return Stored(x.dtype, shape, lambda: part(first, last), lambda a, b: part(first + a, first + b))


def turned(x: Stored) -> Stored:
    """A matrix transposed."""
    out, into = x.shape

    def read() -> Any:
        bits = np.frombuffer(x.raw(), f"<u{SIZES[x.dtype]}").reshape(out, into)
        return np.ascontiguousarray(bits.T).reshape(-1).view(np.uint8).data

    return Stored(x.dtype, (into, out), read)


def below(parts: list[Stored]) -> Stored:
    """Tensors of one type and width below each other."""
    first = parts[0]
    if any(x.dtype != first.dtype or x.shape[1:] != first.shape[1:] for x in parts):
        raise ValueError(f"cannot put {parts} below each other")
    shape = (sum(x.shape[0] for x in parts), *first.shape[1:])
    return Stored(first.dtype, shape, lambda: b"".join(x.raw() for x in parts))


def spelled(rule: KeyRule, x: Stored) -> Stored:
    """A parameter as the rule's tensor holds it, its third of the rows where it is one."""
    if rule.transposed:
        x = turned(x)
    return Stored(x.dtype, (*x.shape, 1, 1), x.raw, x.part) if rule.point else x
