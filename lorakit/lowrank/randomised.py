"""The leading triplets of a large dense delta in a random block Krylov space, grown until they are proven good."""

from __future__ import annotations

import numpy as np

from lorakit.lowrank.certified import Certified, SpectrumRequest, bounds, finished, nothing
from lorakit.lowrank.dense import DenseDelta
from lorakit.lowrank.krylov import Space
from lorakit.lowrank.outside import PROBES, outside

SHARE = 0.999  # of what the best triplets hold: what is proven before the search ends
_BLOCKS = 4  # before a proof is tried
_FIRST = 32  # triplets looked for where a share or a floor decides
_WIDEST = 0.35  # of the smaller side: a larger space is more work than a complete decomposition
_PRODUCTS = 4  # with the delta that a proof may take
_FLAT = 1.1  # squares of the last value wanted and of the last in the space: nearer to each other they part too slowly


def leading(x: DenseDelta, shape: tuple[int, ...], wanted: SpectrumRequest, seed: int = 0) -> Certified | None:
    """The leading triplets of a delta; None where `by_gram` should be asked instead.

    The space grows until it holds what is wanted, and until it is proven that what was found holds at least `SHARE` of
    what the best triplets do: by the residual and by a bound of the delta outside of the space, from random probes,
    which is wrong once in 10^10. Same seed, same result. Musco and Musco, 2015; Halko, Martinsson and Tropp, 2011.
    """
    total = x.squared
    if not total:
        return nothing(x, shape, wanted)
    draw = np.random.default_rng(seed)
    width = _width(min(wanted.most, _FIRST) if wanted.open else wanted.most)
    room = int(_WIDEST * x.p)
    if _BLOCKS * width > room:
        return None
    space = Space(x, width, draw)
    probes = draw.standard_normal((x.p, PROBES), np.float32)
    alive = all(space.grow(width) for _ in range(_BLOCKS - 1))
    for step in range(room):  # room for all steps there can be
        # The probes go through the delta beside the first block that a proof may follow.
        alive = alive and space.grow(width, None if step else probes)
        ritz = _Ritz(space)
        found = wanted.count(np.sqrt(ritz.theta), total)
        if not alive:  # the delta has no more than this
            return ritz.finished(found or min(wanted.most, space.size), shape, wanted, ritz.everything(total))
        if found is None or _width(found) > width:
            width = 2 * width
        else:
            best = ritz.proof(found, total, probes)
            if best is not None:
                return ritz.finished(found, shape, wanted, best)
            if step and ritz.theta[found - 1] < _FLAT * ritz.theta[-1]:
                break
        if space.size + width > room:
            break
    return None


def _width(k: int) -> int:
    """Of the blocks: four of them have room for three times k at large k, and more at small."""
    return 8 + -(-k // 2)


class _Ritz:
    """A on the space: Ritz values [b] falling, Ritz vectors, and what A takes out of the space."""

    def __init__(self, space: Space) -> None:
        self.space = space
        inside = (space.basis.T @ space.image).astype("f8")
        theta, self.turn = (part[..., ::-1] for part in np.linalg.eigh((inside + inside.T) / 2))
        self.theta = np.maximum(theta, 0)
        rest = space.cleaned(space.image).astype("f8")
        self.residual = self.turn.T @ (rest.T @ rest) @ self.turn

    def everything(self, total: float) -> np.ndarray:
        """Bounds that hold whatever is outside."""
        return self.theta.cumsum() + max(0.0, total - float(self.theta.sum()))

    def proof(self, k: int, total: float, probes: np.ndarray) -> np.ndarray | None:
        """Upper bounds of what the best 1 to k triplets hold; None where they do not prove `SHARE`."""
        held = float(self.theta[:k].sum())
        allowed = (1 / SHARE - 1) * held
        if total - float(self.theta.sum()) <= allowed:
            return self.everything(total)[:k]
        least, last = float(self.theta[k - 1]), float(self.theta[-1])
        if self._lost(k, max(last, 0.5 * least)) > allowed:
            return None  # the probes cost as much as a block, and would be in vain
        if self.space.probed is None:
            raise ValueError("the probes have not gone through the delta")
        for limit in outside(self.space, probes, self.space.probed, least, _PRODUCTS):
            if limit < least or self._lost(k, limit) < allowed:
                best = bounds(self.theta, self.residual, limit, k)
                if float(best[-1]) - held <= allowed:
                    return best
            if limit > 2.5 * least:
                return None
        return None

    def _lost(self, k: int, limit: float) -> float:
        """About what `bounds` would add, were this outside; cheap."""
        top = self.theta[:k]
        gaps = np.maximum(top - limit, 1e-3 * top)
        return float((self.residual.diagonal()[:k] / gaps).sum() + np.maximum(limit - top, 0).sum())

    def finished(self, k: int, shape: tuple[int, ...], wanted: SpectrumRequest, best: np.ndarray) -> Certified:
        taken = np.ascontiguousarray(self.turn[:, :k], np.float32)
        right = self.space.x.combined(taken, self.space.rows)
        left = self.space.basis @ taken
        return finished(
            self.space.x, left, right, inside=float(self.theta.sum()), shape=shape, wanted=wanted, best=best
        )
