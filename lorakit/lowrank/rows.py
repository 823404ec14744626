"""Deltas cut into bands of rows, and put together from them: one weight for query, key and value, or three. Exact.

A fused delta of rank r is three of rank r that share their down factor; where the up factor has blocks of zeros each has
only the ranks that act on it. The way back is an up factor of blocks, or of fewer ranks where the down factors depend on
one another. Factors stay factors; what is dense is cut as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from lorakit.arrays import Array, cast, dtype_of, on_host, raw, same_bytes
from lorakit.delta import Delta
from lorakit.deltas.dora import DoRA
from lorakit.deltas.full import Full
from lorakit.deltas.low_rank import LowRank, plain
from lorakit.lowrank.sums import decompose, independent


def split(delta: Delta, sizes: Sequence[int]) -> list[Delta]:
    """A delta as those of its bands of so many rows; TypeError for a kind whose rows do not come apart."""
    ends = np.cumsum(sizes)
    return _bands(delta, [slice(int(end - size), int(end)) for size, end in zip(sizes, ends, strict=True)])


def join(parts: Sequence[Delta | None], sizes: Sequence[int], inputs: int) -> Delta:
    """The delta whose bands are these, None for one of zeros; TypeError for kinds that do not go together."""
    there = [one for one in parts if one is not None]
    if all(isinstance(one, DoRA) and one.axis == 0 for one in there) and len(there) == len(parts):
        inner = join([one.inner for one in there if isinstance(one, DoRA)], sizes, inputs)
        lengths = [on_host(one.magnitude).reshape(-1) for one in there if isinstance(one, DoRA)]
        return DoRA(inner, np.concatenate(lengths))
    if any(map(_is_dense, there)):
        wide = next(one.delta().shape[1:] for one in there if _is_dense(one))
        given = [
            np.zeros((size, *wide), "f4") if one is None else on_host(one.delta())
            for one, size in zip(parts, sizes, strict=True)
        ]
        return Full(np.concatenate(given))
    low = [None if one is None else _plain(one) for one in parts]
    return _beside(low, sizes) if not _share(low) else _below(low, sizes)


def swapped(delta: Delta) -> Delta:
    """The delta with its lower half of rows above its upper one."""
    half = (delta.shape or (0,))[0] // 2
    lower, upper = split(delta, (half, half))[::-1]
    if isinstance(lower, LowRank) and isinstance(upper, LowRank):
        whole = plain(delta)
        up = on_host(whole.up)
        return replace(whole, up=cast(np.concatenate([up[half:], up[:half]]), dtype_of(whole.up)))
    return join([lower, upper], (half, half), prod((delta.shape or (0, 0))[1:]))


def _bands(delta: Delta, bands: Sequence[slice]) -> list[Delta]:
    if isinstance(delta, DoRA) and delta.axis == 0:
        lengths = on_host(delta.magnitude).reshape(-1)
        return [DoRA(inner, lengths[band]) for inner, band in zip(_bands(delta.inner, bands), bands, strict=True)]
    if _is_dense(delta):
        dense = on_host(delta.delta())
        kind = dtype_of(delta.diff) if isinstance(delta, Full) else "F32"
        return [Full(cast(np.ascontiguousarray(dense[band]), kind)) for band in bands]
    low = _plain(delta)
    up = on_host(low.up)
    return [_acting(low, up, band) for band in bands]


def _acting(low: LowRank, up: np.ndarray, band: slice) -> LowRank:
    """A band with the ranks that act on it; one rank where none does."""
    rows = up[band]
    acts = np.flatnonzero(np.any(rows.reshape(*rows.shape[:2], -1) != 0, (0, 2)))
    acts = acts if len(acts) else np.array([0])
    down = low.down
    if len(acts) < low.rank:
        down, rows = cast(np.ascontiguousarray(on_host(down)[acts]), dtype_of(down)), rows[:, acts]
    return LowRank(down, cast(np.ascontiguousarray(rows), dtype_of(low.up)), low.scale * len(acts))


def _is_dense(delta: Delta) -> bool:
    """Whether dense it is less to hold: a whole delta, or a product of products as large as one."""
    return isinstance(delta, Full) or (delta.exact and not isinstance(delta, LowRank) and not delta.narrow)


def _plain(delta: Delta) -> LowRank:
    if not delta.exact:
        raise TypeError(f"the rows of a {delta.kind} delta do not come apart")
    return plain(delta)


def _share(low: Sequence[LowRank | None]) -> bool:
    """Whether all bands have the very same down factor."""
    first, *rest = low
    return first is not None and all(
        one is not None
        and dtype_of(one.down) == dtype_of(first.down)
        and tuple(one.down.shape) == tuple(first.down.shape)
        and same_bytes(raw(one.down), raw(first.down))
        for one in rest
    )


def _below(low: Sequence[LowRank | None], sizes: Sequence[int]) -> LowRank:
    """The ups below each other, over the down factor that they share."""
    there = [one for one in low if one is not None]
    scale, ups = _at_one_scale(there)
    return LowRank(
        there[0].down,
        _typed(np.concatenate(ups), [one.up for one in there], scale is None),
        (1 if scale is None else scale) * there[0].rank,
    )


def _beside(low: Sequence[LowRank | None], sizes: Sequence[int]) -> LowRank:
    """An up factor of blocks; of fewer ranks, where the down factors depend on one another."""
    there = [one for one in low if one is not None]
    scale, ups = _at_one_scale(there)
    rank = sum(one.rank for one in there)
    up = np.zeros((sum(sizes), rank), ups[0].dtype)
    row = column = 0
    given = iter(zip(there, ups, strict=True))
    for one, size in zip(low, sizes, strict=True):
        if one is not None:
            mine, values = next(given)
            up[row : row + size, column : column + mine.rank] = values.reshape(size, mine.rank)
            column += mine.rank
        row += size
    down = np.concatenate([on_host(one.down).reshape(one.rank, -1) for one in there])
    if not independent(up, down) and (found := decompose(up, down, (up.shape[0], down.shape[1]))).s.size < rank:
        cut = found.cut(found.s.size)
        return replace(cut, alpha=cut.alpha * (1 if scale is None else scale))
    whole_down = _typed(down, [one.down for one in there], False)
    return LowRank(
        whole_down, _typed(up, [one.up for one in there], scale is None), (1 if scale is None else scale) * rank
    )


def _at_one_scale(low: Sequence[LowRank]) -> tuple[float | None, list[np.ndarray]]:
    """(the scale that all have, their ups); where they differ (None, the ups with the scales in them)."""
    scales = {one.scale for one in low}
    if len(scales) == 1:
        return scales.pop(), [on_host(one.up) for one in low]
    return None, [on_host(one.up) * one.scale for one in low]


def _typed(values: np.ndarray, like: Sequence[Array], new: bool) -> Array:
    """In the type that all of `like` have, where the values are theirs; scaled ones stay in float32."""
    kinds = {dtype_of(x) for x in like}
    return values if new or len(kinds) > 1 else cast(values, kinds.pop())
