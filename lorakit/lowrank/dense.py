"""A dense delta, and the few products with it that are all the work there is in decomposing it."""

from __future__ import annotations

from typing import Any

import numpy as np

_PIECE = 1 << 19  # numbers of the delta at a time, which stay in the cache for the second product
_SUMMED = 512  # columns whose products are summed in float32


class DenseDelta:
    """A delta [out, in*kh*kw] in float32, lying: its smaller side as p rows x [p, q].

    What is narrow (bases, images of them) is numpy on the host in any case, so that an algorithm is written once; `rows`
    are of whatever holds the delta, and only `combined` looks into them. A = x x'.
    """

    def __init__(self, delta: Any, squared: float | None = None) -> None:
        """`squared` is the squared Frobenius norm where it is known."""
        self.delta = delta
        self.turned = delta.shape[0] > delta.shape[1]
        self.x = delta.T if self.turned else delta
        self.p, self.q = self.x.shape
        self.squared = self._squared() if squared is None else squared

    def upright(self, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(u [out, k], vh [k, in*kh*kw]) from left [p, k] and right [k, q]."""
        u, vh = (right.T, left.T) if self.turned else (left, right)
        return np.ascontiguousarray(u), np.ascontiguousarray(vh)

    def through(self, vectors: np.ndarray) -> np.ndarray:
        """x @ vectors, [q, b] to [p, b]."""
        return self.x @ vectors

    def rows(self, basis: np.ndarray) -> Any:
        """basis' x, [p, b] to [b, q]."""
        return basis.T @ self.x

    def image(self, basis: np.ndarray) -> tuple[Any, np.ndarray]:
        """(basis' x [b, q], A basis [p, b]); the delta is read once."""
        rows = np.empty((basis.shape[1], self.q), np.float32)
        image = np.zeros((basis.shape[1], self.p), np.float32)
        flat = np.ascontiguousarray(basis.T)
        step = max(64, _PIECE // self.p)
        for at in range(0, self.q, step):
            piece = self.x[:, at : at + step]
            some = flat @ piece
            rows[:, at : at + step] = some
            # The same numbers; which way round is faster depends on how the delta lies.
            image += some @ piece.T if self.turned else (piece @ some.T).T
        return rows, image.T

    def combined(self, turn: np.ndarray, rows: list[Any]) -> np.ndarray:
        """turn' rows: [b, k], and rows of b in all, to [k, q]."""
        out, at = np.zeros((turn.shape[1], self.q), np.float32), 0
        for some in rows:
            out += turn[at : at + len(some)].T.astype(np.float32) @ some
            at += len(some)
        return out

    def inner(self, rows: Any) -> np.ndarray:
        """rows @ rows' [b, b] in float64."""
        wide = rows.astype("f8")
        return wide @ wide.T

    def gram(self) -> np.ndarray:
        """A [p, p] in float64: products of a few columns in float32, added in float64."""
        total = np.zeros((self.p, self.p))
        for at in range(0, self.q, _SUMMED):
            piece = self.x[:, at : at + _SUMMED]
            total += piece @ piece.T
        return total

    def remainder(self, left: np.ndarray, right: np.ndarray) -> float:
        """||x - left @ right||², which no difference of large numbers gives."""
        total, step = 0.0, max(64, _PIECE // self.p)
        for at in range(0, self.q, step):
            rest = self.x[:, at : at + step] - left @ right[:, at : at + step]
            total += float(np.vdot(rest, rest))
        return total

    def missed(self, up: np.ndarray, down: np.ndarray) -> float:
        """||delta - up @ down||², up [out, k], down [k, in*kh*kw]."""
        return self.remainder(down.T, up.T) if self.turned else self.remainder(up, down)

    def _squared(self) -> float:
        flat = self.delta.reshape(-1)
        return sum(float(np.dot(x, x)) for x in (flat[at : at + _PIECE] for at in range(0, len(flat), _PIECE)))
