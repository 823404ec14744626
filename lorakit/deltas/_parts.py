"""Reading and writing the tensors of one module: what the kinds share."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, prod

import numpy as np

from lorakit.arrays import Array, number


def take(parts: Mapping[str, Array], *keys: str) -> list[Array]:
    """The arrays of `keys`; ValueError for the first that is missing or empty."""
    for key in keys:
        if key not in parts:
            raise ValueError(f"{key} is missing")
        if 0 in parts[key].shape:
            raise ValueError(f"{key} {tuple(parts[key].shape)} is empty")
    return [parts[key] for key in keys]


def together(fits: bool, **arrays: Array) -> None:
    """ValueError that lists the arrays' shapes, unless they fit one another."""
    if not fits:
        shapes = [f"{name} {tuple(x.shape)}" for name, x in arrays.items()]
        raise ValueError(f"{', '.join(shapes[:-1])} and {shapes[-1]} do not belong together")


def alpha_of(parts: Mapping[str, Array], absent: float) -> float:
    """The alpha, or what a missing one means; ValueError for one that is not finite."""
    value = number(parts["alpha"]) if "alpha" in parts else float(absent)
    if not isfinite(value):
        raise ValueError(f"alpha is {value}, expected a finite number")
    return value


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def whole(shape: tuple[int, ...] | None, flat: tuple[int, ...]) -> tuple[int, ...] | None:
    """The weight's shape, where it is what a flattened delta of shape `flat` stands for."""
    return tuple(shape) if shape and shape[0] == flat[0] and prod(shape) == prod(flat) else None


def is_point(x: Array) -> bool:
    """Whether it is a matrix, or a convolution's weight with a 1x1 kernel."""
    return x.ndim == 2 or (x.ndim == 4 and tuple(x.shape[2:]) == (1, 1))
