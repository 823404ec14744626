"""LoKr: a Kronecker product (KronA, Edalati et al., 2022; LyCORIS, Yeh et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite, prod
from typing import Any, ClassVar

from lorakit.algebra import doubles, eye, gram_norm, kron, through
from lorakit.arrays import Array, floats, number
from lorakit.delta import Delta
from lorakit.deltas._parts import alpha_of, scalar, take, together, whole

SUFFIXES = frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "alpha"})


@dataclass(frozen=True)
class Side:
    """One factor of the Kronecker product, a matrix [rows, columns]: whole, or a @ b, or through a Tucker core.

    whole [rows, columns] or [rows, in, kh, kw]; a [rows, r] and b [r, columns] or [r, in, kh, kw]; with a core
    [r, r, kh, kw], a [r, rows] and b [r, in].
    """

    whole: Array | None
    a: Array | None
    b: Array | None
    core: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        if self.whole is not None:
            return tuple(self.whole.shape)
        assert self.a is not None and self.b is not None
        if self.core is not None:
            return (self.a.shape[1], self.b.shape[1], *self.core.shape[2:])
        return (self.a.shape[0], *self.b.shape[1:])

    @property
    def dim(self) -> int | None:
        """The rank it is decomposed to, None where it is whole."""
        return None if self.b is None else int(self.b.shape[0])

    @property
    def rank(self) -> int:
        """Of `factors`."""
        limit = min(self.shape[0], prod(self.shape[1:]))
        if self.a is None:
            return limit
        return min(limit, int(self.a.shape[1] if self.core is None else self.a.shape[0]))

    def matrix(self) -> Any:
        if self.whole is not None:
            return floats(self.whole).reshape(self.shape[0], -1)
        a, b = self._product()
        return a @ b

    def factors(self) -> tuple[Any, Any]:
        """(up [rows, rank], down [rank, columns]); where no smaller ones are given, itself and an identity."""
        if self.a is not None:
            a, b = self._product()
            if a.shape[1] == self.rank:
                return a, b
        x = self.matrix()
        return (x, eye(x.shape[1], x)) if x.shape[1] <= x.shape[0] else (eye(x.shape[0], x), x)

    def norm(self) -> float:
        if self.whole is not None:
            return float((doubles(self.whole) ** 2).sum()) ** 0.5
        return gram_norm(*self._product())

    def _product(self) -> tuple[Any, Any]:
        a, b = floats(self.a), floats(self.b)
        return (a, b.reshape(b.shape[0], -1)) if self.core is None else (a.T, through(floats(self.core), b))


@dataclass(frozen=True)
class LoKr(Delta):
    """delta = kron(w1, w2) * alpha / dim, dim the rank of w2 if it is decomposed, else of w1; 1 where neither is.

    w1 [o1, i1] or w1_a [o1, r] @ w1_b [r, i1]. w2 [o2, i2] or [o2, i2, kh, kw], or w2_a [o2, r] @ w2_b [r, i2], a
    convolution's [r, i2*kh*kw], or with a core t2 [r, r, kh, kw], w2_a [r, o2] and w2_b [r, i2]. The weight is
    [o1*o2, i1*i2] or [.., kh, kw]; `flattened` is its shape where it is known and the matrices leave it open.
    """

    kind: ClassVar[str] = "lokr"
    exact: ClassVar[bool] = True

    alpha: float
    w1: Array | None = None
    w1_a: Array | None = None
    w1_b: Array | None = None
    w2: Array | None = None
    w2_a: Array | None = None
    w2_b: Array | None = None
    t2: Array | None = None
    flattened: tuple[int, ...] | None = None

    @property
    def sides(self) -> tuple[Side, Side]:
        return Side(self.w1, self.w1_a, self.w1_b), Side(self.w2, self.w2_a, self.w2_b, self.t2)

    @property
    def rank(self) -> int | None:
        first, second = self.sides
        return first.dim if second.dim is None else second.dim

    @property
    def low_rank_size(self) -> int:
        first, second = self.sides
        return first.rank * second.rank

    @property
    def scale(self) -> float:
        return 1.0 if self.rank is None else self.alpha / self.rank

    @property
    def shape(self) -> tuple[int, ...]:
        (o1, i1), (o2, i2, *kernel) = (side.shape for side in self.sides)
        return self.flattened or (o1 * o2, i1 * i2, *kernel)

    def factors(self, base: Array | None = None) -> tuple[Array, Array]:
        """Of rank r1 * r2: kron(u1 @ d1, u2 @ d2) = kron(u1, u2) @ kron(d1, d2)."""
        (u1, d1), (u2, d2) = (side.factors() for side in self.sides)
        return kron(u1 * self.scale, u2), kron(d1, d2)

    def delta(self, base: Array | None = None) -> Array:
        first, second = self.sides
        return kron(first.matrix() * self.scale, second.matrix()).reshape(self.shape)

    def norm(self, base: Array | None = None) -> float:
        """||kron(w1, w2)|| = ||w1|| * ||w2||."""
        first, second = self.sides
        return abs(self.scale) * first.norm() * second.norm()


def matches(parts: Mapping[str, Array]) -> bool:
    return any(key.startswith("lokr_") for key in parts) and "dora_scale" not in parts


def read(parts: Mapping[str, Array], shape: tuple[int, ...] | None) -> LoKr:
    first, second = _side(parts, "lokr_w1"), _side(parts, "lokr_w2", "lokr_t2")
    delta = LoKr(1.0, first.whole, first.a, first.b, second.whole, second.a, second.b, second.core)
    if delta.rank is not None:
        alpha = alpha_of(parts, delta.rank)
    else:  # LyCORIS leaves anything in a file whose alpha does not count, infinities too
        alpha = number(parts["alpha"]) if "alpha" in parts else 1.0
        alpha = alpha if isfinite(alpha) else 1.0
    flattened = whole(shape, delta.shape) if len(delta.shape) == 2 else None
    return replace(delta, alpha=alpha, flattened=flattened)


def _side(parts: Mapping[str, Array], name: str, core_name: str = "") -> Side:
    """One factor from its tensors; only the second, which has a `core_name`, may have a kernel."""
    dimensions = (2, 4) if core_name else (2,)
    halves = [key for key in (f"{name}_a", f"{name}_b") if key in parts]
    if core_name in parts and not halves:
        raise ValueError(f"{name}_a is missing; {core_name} stands between it and {name}_b")
    if not halves:
        (matrix,) = take(parts, name)
        if matrix.ndim not in dimensions:
            raise ValueError(f"{name} {tuple(matrix.shape)} is not a matrix")
        return Side(matrix, None, None)
    if name in parts:
        raise ValueError(f"{name} is there twice, whole and as {halves[0]}")
    a, b = take(parts, f"{name}_a", f"{name}_b")
    if core_name not in parts:
        together(a.ndim == 2 and b.ndim in dimensions and a.shape[1] == b.shape[0], **{f"{name}_a": a, f"{name}_b": b})
        return Side(None, a, b)
    (core,) = take(parts, core_name)
    fits = a.ndim == b.ndim == 2 and core.ndim == 4 and tuple(core.shape[:2]) == (a.shape[0], b.shape[0])
    together(fits, **{f"{name}_a": a, f"{name}_b": b, core_name: core})
    return Side(None, a, b, core)


def write(delta: LoKr) -> dict[str, Array]:
    prefixed = {f"lokr_{name}": array for name, array in delta.arrays().items()}
    return {**prefixed, "alpha": scalar(delta.alpha)}
