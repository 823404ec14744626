"""Which shape each picture is cut to: dynamic programming over pictures in order, then moves of single ones."""

from dataclasses import dataclass

import numpy as np

from lorakit.data.shapes import covering, cut_off, kept, offered, shortfall

# What a pixel not used and an empty place in a batch count, against a whole picture cut off. The dearest that keep
# enough of the pictures are taken.
_SHORT = (0.5, 0.15, 0.04)
_EMPTY = (0.0, 0.02, 0.06, 0.15, 0.4)
_STEPS = (0.75, 0.6, 0.3, 0.85)  # of how small pictures are; coarse steps suit few pictures
_MOST_LOST = 0.15  # of a picture's area for the sake of the others
_MOST_EXTRA = 0.5  # what a single move may cost
_MOST_OFFERED, _MOST_SHAPES, _MOST_PLACES = 512, 64, 32  # beyond these the search is coarser
_WORK = 25_000_000  # states of the search; about half a second


def search(cost: np.ndarray, counts: np.ndarray, empty: np.ndarray, batch: int) -> np.ndarray:
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


def candidates(sizes: np.ndarray, area: float, multiple: int, upscale: bool) -> np.ndarray:
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


@dataclass(kw_only=True)
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


def _moved(found: np.ndarray, k: int, cost: np.ndarray, losses: _Losses) -> np.ndarray | None:
    """What is left over in the last batch of shape k moved to free places in those of others, where it costs least."""
    batch, times = losses.batch, losses.times
    counts = np.bincount(found, times, cost.shape[1]).astype(np.int64)
    room, need = np.where(counts > 0, -counts % batch, 0), int(counts[k] % batch)
    room[k] = 0
    members = np.flatnonzero(found == k)
    free = np.flatnonzero(room)
    if not need or not len(free):
        return None
    trial = found.copy()
    extra = cost[np.ix_(members, free)].min(1) - cost[members, k]
    for i in members[np.argsort(extra, kind="stable")]:
        if need and times[i] <= need:
            to = int(np.where(room >= times[i], cost[i], np.inf).argmin())
            if room[to] >= times[i] and cost[i, to] < cost[i, k] + _MOST_EXTRA:
                trial[i] = to
                room[to] -= times[i]
                need -= int(times[i])
    return trial if not need else None


def _topped_up(found: np.ndarray, cost: np.ndarray, losses: _Losses, keep: float) -> np.ndarray:
    """Better by single moves. The search sees runs of neighbours; a picture may fill a batch that is far from it."""
    best, better = losses.score(found, keep), True
    while better:
        better = False
        for k in np.unique(found):
            trial = _moved(found, int(k), cost, losses)
            if trial is not None and (score := losses.score(trial, keep)) > best + 1e-9:
                found, best, better = trial, score, True
    return found


def assign(
    sizes: np.ndarray, times: np.ndarray, shapes: np.ndarray, *, area: float, batch: int, keep: float, upscale: bool
) -> np.ndarray:
    """The index of the shape of each picture."""
    every, rows = sizes[:, None], np.arange(len(sizes))
    cut, short = cut_off(every, shapes[None], upscale), shortfall(every, shapes[None], area)
    losses = _Losses(cut=cut, short=short, kept=kept(every, shapes[None]), times=times, batch=batch)
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
        for row in search(cost[:, order], counts, empty, places):
            found = np.empty_like(best)
            found[order] = row
            tried.append(found)
    found = max(tried, key=lambda found: losses.score(found, keep))
    return _topped_up(found, cut + short, losses, keep)
