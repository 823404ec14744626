"""Resolution buckets made for the pictures at hand, by dynamic programming.

The usual buckets are a fixed table: pictures lose what the nearest shape cuts off, and each bucket ends in a short
batch. Here the shapes follow from the pictures. No picture is left out or shown more often than asked, none is
enlarged unless asked; what is minimised is area cut off, pixels not used, and places in batches left empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorakit.data.shapes import covering, cut_off, enlarged, kept, offered, shortfall

# What a pixel not used and an empty place in a batch count, against a whole picture cut off. The dearest that keep
# enough of the pictures are taken.
_SHORT = (0.5, 0.15, 0.04)
_EMPTY = (0.0, 0.02, 0.06, 0.15, 0.4)
_STEPS = (0.75, 0.6, 0.3, 0.85)  # of how small pictures are; coarse steps suit few pictures
_MOST_LOST = 0.15  # of a picture's area for the sake of the others
_MOST_OFFERED, _MOST_SHAPES, _MOST_PLACES = 512, 64, 32  # beyond these the search is coarser
_WORK = 40_000_000  # states of the search; about half a second


@dataclass(frozen=True)
class Bucket:
    """A shape (width, height) and which pictures are cut to it."""

    size: tuple[int, int]
    members: tuple[int, ...]


@dataclass(frozen=True)
class Buckets:
    """Buckets that together hold every picture once.

    kept        of each picture the share of its area that is trained on
    pixels      of each picture the share of the pixels it could show, at most `area`, that its shape has room for
    enlarged    the pictures that are smaller than any shape allowed, and grow
    """

    buckets: tuple[Bucket, ...]
    kept: tuple[float, ...]
    pixels: tuple[float, ...]
    enlarged: tuple[int, ...]
    repeats: tuple[int, ...]
    batch_size: int
    area: int

    def shapes(self) -> list[tuple[int, int]]:
        """The shape of each picture, by its index."""
        by_index = {i: bucket.size for bucket in self.buckets for i in bucket.members}
        return [by_index[i] for i in range(len(self.kept))]

    def shown(self, bucket: Bucket) -> int:
        """How many of its pictures an epoch shows, repeats counted."""
        return sum(self.repeats[i] for i in bucket.members)

    def rows(self) -> list[dict[str, Any]]:
        """The table people look at: a row a bucket, the largest first."""
        rows = [
            {
                "size": list(bucket.size),
                "pictures": len(bucket.members),
                "shown": self.shown(bucket),
                "kept": float(np.mean([self.kept[i] for i in bucket.members])),
                "least_kept": min(self.kept[i] for i in bucket.members),
                "passes": -(-self.shown(bucket) // self.batch_size),
            }
            for bucket in self.buckets
        ]
        return sorted(rows, key=lambda row: (-row["shown"], row["size"]))

    def summary(self) -> dict[str, Any]:
        """Figures of the whole.

        kept, least_kept    share of the area trained on: mean over what an epoch shows, and of the worst picture
        pixels              mean share of the pixels a picture could show, of the area asked for
        steps, fill         batches an epoch and how full they are, where the rests of buckets share batches
        passes, pass_fill   the same where every batch has one shape: what the model is called with
        """
        times = np.array(self.repeats)
        shown, passes = int(times.sum()), sum(row["passes"] for row in self.rows())
        steps = -(-shown // self.batch_size)
        return {
            "pictures": len(self.kept),
            "shown": shown,
            "buckets": len(self.buckets),
            "kept": float(np.average(self.kept, weights=times)),
            "least_kept": min(self.kept),
            "pixels": float(np.average(self.pixels, weights=times)),
            "steps": steps,
            "fill": shown / (steps * self.batch_size),
            "passes": passes,
            "pass_fill": shown / (passes * self.batch_size),
            "enlarged": len(self.enlarged),
        }


def _search(cost: np.ndarray, counts: np.ndarray, empty: np.ndarray, batch: int) -> np.ndarray:
    """For each of m prices the cheapest shape [m, n] of each item, in order.

    cost    [m, n, k] of item i in shape k under price m
    counts  [n] pictures in an item
    empty   [m] price of an empty place in the last batch of a run of one shape

    A state is (shape, places taken in its last batch). Items come in order; each goes on in the shape of the one
    before, or opens another. Bellman, 1957.
    """
    prices, items, shapes = cost.shape
    rest = empty[:, None, None] * ((-np.arange(batch)) % batch)
    state = np.full((prices, shapes, batch), np.inf, np.float32)
    closed = np.zeros(prices, np.float32)
    rows, opening = np.arange(prices), 0.001 + empty / 4  # a further shape: kernels to choose, graphs to compile
    last = np.zeros((items, prices), np.int32)  # the cheapest state after each item
    opened = np.zeros((items, prices, shapes), bool)  # whether the state reached came from opening
    for i in range(items):
        count = int(counts[i]) % batch
        state = np.roll(state, count, -1) if count else state
        fresh = (closed + opening)[:, None]
        opened[i] = fresh < state[:, :, count]
        state[:, :, count] = np.where(opened[i], fresh, state[:, :, count])
        state += cost[:, i, :, None]
        ends = (state + rest).reshape(prices, -1)
        last[i] = ends.argmin(1)
        closed = ends[rows, last[i]]
    chosen = np.zeros((prices, items), np.int32)
    at = last[-1].copy() if items else np.zeros(prices, np.int32)
    for i in reversed(range(items)):
        shape, place = np.divmod(at, batch)
        chosen[:, i] = shape
        count = int(counts[i]) % batch
        # A state opened by this item has just its count of places taken, and one before it ended anywhere.
        new = opened[i][rows, shape] & (place == count)
        before = last[i - 1] if i else at
        at = np.where(new, before, shape * batch + (place - count) % batch)
    return chosen


def _candidates(sizes: np.ndarray, area: float, multiple: int, upscale: bool) -> np.ndarray:
    """Shapes among which every picture finds one that suits it."""
    shapes = offered(sizes, area, multiple, upscale, _SHORT)[:_MOST_OFFERED]
    loss = _loss(sizes, shapes, area, upscale)
    poor = loss.min(1) > 0.5
    if poor.any():
        own = offered(sizes[poor], area, multiple, upscale, _SHORT[:1])
        shapes = np.unique(np.concatenate([shapes, own]), axis=0)
        loss = _loss(sizes, shapes, area, upscale)
    return shapes if len(shapes) <= _MOST_SHAPES else shapes[covering(loss, _MOST_SHAPES)]


def _loss(sizes: np.ndarray, shapes: np.ndarray, area: float, upscale: bool) -> np.ndarray:
    return cut_off(sizes[:, None], shapes[None], upscale) + shortfall(sizes[:, None], shapes[None], area)


def _order(sizes: np.ndarray, area: float, step: float) -> np.ndarray:
    """Pictures that could share a shape come one after another: by how small they are, in steps, then by aspect."""
    small = np.floor(np.log(np.minimum(1.0, sizes.prod(1) / area)) / np.log(step))
    return np.lexsort((sizes[:, 1], sizes[:, 0] / sizes[:, 1], small))


def _prices(room: int, places: int) -> list[tuple[float, float]]:
    """Pairs of (shortfall, empty place): all of them, or as many as there is room to try, at least three."""
    empty: tuple[float, ...] = _EMPTY if places > 1 else _EMPTY[:1]
    while len(empty) > 1 and len(_SHORT) * len(empty) > room:
        empty = empty[1::2]
    return [(a, b) for a in _SHORT for b in empty]


@dataclass
class _Losses:
    """What each picture loses in each shape, [n, k]."""

    cut: np.ndarray
    short: np.ndarray
    kept: np.ndarray
    times: np.ndarray
    batch: int

    def score(self, found: np.ndarray, keep: float) -> float:
        """How good an assignment [n] is: what is kept comes first, up to `keep`; then full batches and all pixels."""
        rows = np.arange(len(found))
        passes = -(-np.bincount(found, self.times, self.cut.shape[1]).astype(np.int64) // self.batch)
        full = self.times.sum() / (passes.sum() * self.batch)
        left, unused = (np.average(x[rows, found], weights=self.times) for x in (self.kept, self.short))
        grown = (self.cut[rows, found] > 50).sum()
        return float(50 * min(left, keep) + left + min(full, 0.95) - unused - grown)


def _assign(sizes: np.ndarray, times: np.ndarray, shapes: np.ndarray, area: float, batch: int, keep: float, upscale: bool) -> np.ndarray:  # fmt: skip
    """The index of the shape of each picture."""
    every, rows = sizes[:, None], np.arange(len(sizes))
    cut, short = cut_off(every, shapes[None], upscale), shortfall(every, shapes[None], area)
    losses = _Losses(cut, short, kept(every, shapes[None]), times, batch)
    best = (cut + short).argmin(1)
    cut = cut + np.where(losses.kept < losses.kept[rows, best][:, None] - _MOST_LOST, 3.0, 0.0)
    places = min(batch, _MOST_PLACES)
    room = _WORK // (len(sizes) * len(shapes) * places)
    prices = _prices(room, places)
    cost = np.stack([(cut + a * short) * times[:, None] for a, _ in prices]).astype(np.float32)
    empty = np.array([b * batch / places for _, b in prices], np.float32)
    tried = [best]
    for step in _STEPS[: max(1, min(room // len(prices), 2000 // len(sizes)))]:
        order = _order(sizes, area, step)
        counts = np.diff(np.cumsum(times[order]) * places // batch, prepend=0)
        for row in _search(cost[:, order], counts, empty, places):
            found = np.empty_like(best)
            found[order] = row
            tried.append(found)
    return max(tried, key=lambda found: losses.score(found, keep))


def choose(
    sizes: Sequence[tuple[int, int]],
    area: int,
    multiple: int,
    batch_size: int,
    repeats: Sequence[int] | None = None,
    *,
    upscale: bool = False,
    keep: float = 0.975,
) -> Buckets:
    """Buckets for pictures of these sizes (width, height).

    area        pixels a shape should have; one has at most a tenth more
    multiple    every side is a multiple of it
    batch_size  pictures a step, of all processes together
    upscale     whether small pictures may grow; else they get smaller shapes
    keep        the mean share of a picture that must be left, if there are shapes that leave it
    raises      ValueError for numbers that make no sense

    5,000 pictures take about half a second.
    """
    if min(area, multiple, batch_size) < 1 or any(w < 1 or h < 1 for w, h in sizes):
        raise ValueError(f"area {area}, multiple {multiple}, batch size {batch_size} and all sizes must be at least 1")
    if area < multiple**2:
        raise ValueError(f"a shape of {area} pixels has no sides that are multiples of {multiple}")
    times = np.ones(len(sizes), np.int64) if repeats is None else np.array(repeats, np.int64)
    if len(times) != len(sizes) or (times < 1).any():
        raise ValueError(f"{len(sizes)} pictures need as many repeats, each at least 1")
    if not len(sizes):
        return Buckets((), (), (), (), (), batch_size, area)
    table = np.array(sizes, np.float64)
    shapes = _candidates(table, area, multiple, upscale)
    found = _assign(table, times, shapes, area, batch_size, keep, upscale)
    own = shapes[found]
    buckets = [
        Bucket((int(shapes[k][0]), int(shapes[k][1])), tuple(np.flatnonzero(found == k).tolist()))
        for k in np.unique(found)
    ]
    grown = np.flatnonzero(enlarged(table, own) > 1).tolist()
    share, pixels = kept(table, own).tolist(), (1 - shortfall(table, own, area)).tolist()
    return Buckets(tuple(buckets), tuple(share), tuple(pixels), tuple(grown), tuple(times.tolist()), batch_size, area)
