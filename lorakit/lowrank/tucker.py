"""A convolution's delta as up, core and down: a higher-order singular value decomposition, cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lorakit.arrays import Array, on_host
from lorakit.deltas.tucker import Tucker
from lorakit.lowrank.certified import Certified, SpectrumRequest


@dataclass(frozen=True)
class Core:
    """The delta in the leading singular vectors of its two unfoldings.

    outer, inner  the triplets of [out, in*kh*kw] and of [in, out*kh*kw]
    core          [k, k, kh, kw]; cut to r x r it is the core of the rank-r decomposition
    """

    outer: Certified
    inner: Certified
    core: np.ndarray

    @property
    def most(self) -> int:
        return self.core.shape[0]

    def kept(self, rank: int) -> float:
        """The share of the squared norm at this rank, 0 to 1."""
        return min(1.0, float((self.core[:rank, :rank].astype("f8") ** 2).sum()) / self.outer.total)

    def excess(self, rank: int) -> float:
        """At most by this is the error above that of the best Tucker decomposition of this rank, relative to the norm.

        None can be better than the best approximation of either unfolding. De Lathauwer et al., 2000.
        """
        least = max(
            1 - side.best[min(rank, len(side.best)) - 1] / side.total if side.best else 0.0
            for side in (self.outer, self.inner)
        )
        return max(0.0, max(0.0, 1 - self.kept(rank)) ** 0.5 - max(0.0, least) ** 0.5)

    def rank_for(self, share: float) -> int:
        """The least rank that keeps this share, or the most there is."""
        return next((rank for rank in range(1, self.most) if self.kept(rank) >= share * (1 - 1e-12)), self.most)

    def cut(self, rank: int) -> Tucker:
        """alpha = rank; the core's size shared evenly among the three."""
        core = self.core[:rank, :rank]
        size = float(np.abs(core).max()) ** (1 / 3) or 1.0
        return Tucker(
            (self.inner.u[:, :rank].T * size)[:, :, None, None],
            core / size**2,
            (self.outer.u[:, :rank] * size)[:, :, None, None],
            float(rank),
        )


def core_of(delta: Array, most: int, solve: Callable[[Array, tuple[int, ...], SpectrumRequest], Certified]) -> Core:
    """Of a delta [out, in, kh, kw], float32, not 0; `most` is cut to what both sides have.

    solve  the triplets of a matrix, given the shape of what it unfolds and what is wanted of them
    """
    out, into, *kernel = delta.shape
    wanted = SpectrumRequest(min(most, out, into))
    outer = solve(delta.reshape(out, -1), tuple(delta.shape), wanted)
    inner = solve(delta.swapaxes(0, 1).reshape(into, -1), (into, out, *kernel), wanted)
    k = min(len(outer.s), len(inner.s))
    half = (outer.u[:, :k].T @ on_host(delta).reshape(out, -1)).reshape(k, into, -1)
    core = np.einsum("kix,ij->kjx", half, inner.u[:, :k], optimize=True)
    return Core(outer, inner, np.ascontiguousarray(core).reshape(k, k, *kernel))
