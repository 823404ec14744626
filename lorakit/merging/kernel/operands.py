"""Deltas of any kind as what the methods take: factors whose product is exactly the delta."""

from __future__ import annotations

from math import prod

import numpy as np

from lorakit.arrays import Array, Stored, finite, floats, is_torch
from lorakit.delta import Delta
from lorakit.deltas.low_rank import LowRank, plain


def as_numpy(x: Array) -> np.ndarray:
    """The values of any array in numpy."""
    values = floats(x)
    return np.asarray(values.cpu().numpy() if is_torch(values) else values)


def is_dense(delta: Delta) -> bool:
    """Whether a delta has no factors, base weight or not: as a matrix it has full rank."""
    return delta.low_rank_size is None


def is_vector(delta: Delta) -> bool:
    """Whether it is added to a norm's weight, one number a channel."""
    return delta.shape is not None and len(delta.shape) == 1


def in_memory(delta: Delta) -> Delta | None:
    """The same over numpy arrays, each read once; None where a number is NaN or infinite."""
    fine = True

    def read(x: Array) -> Array:
        nonlocal fine
        if isinstance(x, Stored):
            data = x.raw()
            x = Stored(x.dtype, x.shape, lambda: data)
        fine = fine and finite(x)
        return as_numpy(x)

    found = delta.mapped(read)
    return found if fine else None


def operand(delta: Delta, base: Array | None = None) -> LowRank:
    """Factors of the delta, numpy; a dense one is itself beside the identity of its smaller side, a vector a column.

    NeedsBase where it depends on the base weight and none is given.
    """
    if delta.exact:
        low = plain(delta)
        return LowRank(floats(low.down), floats(low.up), low.alpha)
    if not is_dense(delta):
        up, down = delta.factors(base)
        kernel = (delta.shape or (0, down.shape[1]))[1:]
        return _low(up, down, kernel)
    dense = delta.delta(base)
    flat = dense.reshape(dense.shape[0], -1)
    out, width = flat.shape
    eye = np.eye(min(out, width), dtype=flat.dtype)
    kernel = dense.shape[1:] or (1,)
    return _low(eye, flat, kernel) if out < width else _low(flat, eye, kernel)


def _low(up: np.ndarray, down: np.ndarray, kernel: tuple[int, ...]) -> LowRank:
    assert down.shape[1] == prod(kernel)
    rank = up.shape[1]
    return LowRank(down.reshape(rank, *kernel), up.reshape(-1, rank, *[1] * (len(kernel) - 1)), float(rank))
