"""Kinds of delta, one module each: what an adapter file can hold for one weight.

A kind's module defines
    a frozen dataclass under `_base.Delta`
    SUFFIXES                 the key endings it owns, as LyCORIS spells them
    matches(parts)           whether a module with these tensors, ending to array, is of this kind; looks at endings and
                             dimensions only, and claims a module that lacks a tensor too, so that `read` can name it
    read(parts, shape)       ending to array -> the delta; `shape` is the weight's where the model is known, for kinds
                             whose arrays leave it open. ValueError says what does not fit
    write(delta)             ending to array, the inverse
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from types import ModuleType

from lorakit.arrays import Array
from lorakit.delta import Delta
from lorakit.registry import DELTA_KINDS, nearest


@cache
def _kinds() -> tuple[ModuleType, ...]:
    return tuple(DELTA_KINDS[name] for name in DELTA_KINDS.names())


def read(parts: Mapping[str, Array], shape: tuple[int, ...] | None = None) -> Delta:
    """The delta that the arrays of one module make; ValueError where they make none, or not a whole one."""
    fitting = [kind for kind in _kinds() if kind.matches(parts)]
    if len(fitting) != 1:
        raise ValueError(f"no kind of delta has just the tensors {', '.join(sorted(parts))}")
    stray = sorted(parts.keys() - fitting[0].SUFFIXES)
    if stray:
        raise ValueError(f"unknown tensor {stray[0]}{nearest(stray[0], fitting[0].SUFFIXES)}")
    return fitting[0].read(parts, shape)


def write(delta: Delta) -> dict[str, Array]:
    """The inverse: key ending to array."""
    return sys.modules[type(delta).__module__].write(delta)
