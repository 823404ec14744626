"""What every kind of delta can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, ClassVar, Self

from lorakit.algebra import beside, doubles, gram_norm, product_norm
from lorakit.arrays import Array, Stored


class NeedsBase(TypeError):
    """The delta depends on the weight of the base model."""


def is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "ndim")


@dataclass(frozen=True)
class Delta:
    """What an adapter adds to one weight. Its fields are arrays as a file holds them, no scale applied, and numbers.

    Arithmetic gives numpy arrays, or torch tensors where the fields are torch tensors. `base` is the weight of the base
    model, any array; kinds that do not depend on it ignore it.
    """

    kind: ClassVar[str]
    needs_base: ClassVar[bool] = False
    exact: ClassVar[bool] = False  # low rank by itself: `factors()` is the very delta, with no base weight

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of the weight it is added to; None where the fields do not tell. A flattened kernel stays flat."""
        raise NotImplementedError

    @property
    def rank(self) -> int | None:
        """The rank as people name it, None for kinds without one."""
        return None

    @property
    def low_rank_size(self) -> int | None:
        """The r of `factors`, known without forming them; None for kinds that have none, base weight or not."""
        return None

    @property
    def narrow(self) -> bool:
        """Whether the factors hold fewer numbers than the dense delta, so that working with them is less work."""
        return _cheap(self.shape, [self.low_rank_size])

    def factors(self, base: Array | None = None) -> tuple[Array, Array]:
        """(up [out, r], down [r, in*kh*kw]) whose product is exactly the delta, the scale in them.

        TypeError for kinds that are not low rank, NeedsBase where it depends on the base weight and none is given.
        """
        raise TypeError(f"a {self.kind} delta is not low rank")

    def delta(self, base: Array | None = None) -> Array:
        """Dense, in `shape` or the base weight's; NeedsBase where it depends on the base weight and none is given."""
        up, down = self.factors(base)
        dense = up @ down
        return dense if self.shape is None else dense.reshape(self.shape)

    def product(self, base: Array | None = None) -> tuple[Array, Array] | Array:
        """The delta in the form that is less work: its factors, or dense."""
        return self.factors(base) if self.narrow else self.delta(base)

    def norm(self, base: Array | None = None) -> float:
        """The Frobenius norm, without forming the delta where that is less work; NeedsBase as `delta`."""
        if self.narrow:
            return gram_norm(*self.factors(base))
        return _dense_norm(doubles(self.delta(base)))

    def against(self, base: Array | None, like: Array) -> Any:
        """The base weight's values in the library of `like`, one of the fields; NeedsBase where it is None."""
        if base is None:
            raise NeedsBase(f"a {self.kind} delta depends on the weight of the base model, and none is given")
        return beside(base, like)

    def arrays(self) -> dict[str, Array]:
        return {f.name: value for f in fields(self) if is_array(value := getattr(self, f.name))}

    def mapped(self, change: Callable[[Array], Array]) -> Self:
        """The same delta with each array changed: cast, moved, read."""
        return replace(self, **{name: change(value) for name, value in self.arrays().items()})

    def apart(self, other: Delta) -> float:
        """How far another delta of this kind is from this one, relative to this one; of a kind that depends on the base
        weight, the worst of its arrays."""
        if not self.needs_base:
            return relative_error(self, other)
        pairs = zip(self.arrays().values(), other.arrays().values(), strict=True)
        return max((difference(x, y) for x, y in pairs), default=0.0)

    def materialised(self) -> Self:
        """The same over torch tensors, read from the file."""
        return self.mapped(lambda x: x.tensor() if isinstance(x, Stored) else x)

    @property
    def parameters(self) -> int:
        return sum(prod(x.shape) for x in self.arrays().values())


def difference(x: Array, y: Array) -> float:
    """||y - x|| / ||x|| of two arrays with equally many numbers, whatever their shapes; infinite for others."""
    if prod(x.shape) != prod(y.shape):
        return float("inf")
    a, b = (doubles(z).reshape(-1) for z in (x, y))
    return _dense_norm(beside(b, a) - a) / (_dense_norm(a) or 1.0)


def inner(a: Delta, b: Delta, base: Array | None = None) -> float:
    """The Frobenius inner product of two deltas of one weight, by their factors where that is less work than dense."""
    if _cheap(a.shape, [a.low_rank_size, b.low_rank_size]):
        (ua, da), (ub, db) = ((doubles(up), doubles(down)) for up, down in (a.factors(base), b.factors(base)))
        return float(((ua.T @ ub) * (da @ db.T)).sum())
    x, y = _dense_pair(a, b, base)
    return float((x * y).sum())


def relative_error(wanted: Delta, got: Delta, base: Array | None = None) -> float:
    """||got - wanted|| / ||wanted||, by factors where that is less work than dense; the norm of `got` where wanted is 0."""
    if _cheap(wanted.shape, [wanted.low_rank_size, got.low_rank_size]):
        ua, da = map(doubles, wanted.factors(base))
        ub, db = map(doubles, got.factors(base))
        # The difference as one product of stacked factors: its norm by orthogonal bases does not cancel.
        return product_norm([ua, -ub], [da, db]) / (gram_norm(ua, da) or 1.0)
    a, b = _dense_pair(wanted, got, base)
    return _dense_norm(a - b) / (_dense_norm(a) or 1.0)


def _cheap(shape: tuple[int, ...] | None, ranks: list[int | None]) -> bool:
    """Whether factors of these ranks together hold fewer numbers than a dense delta of this shape."""
    if shape is None or None in ranks:
        return False
    out, width = shape[0], prod(shape[1:])
    return sum(rank or 0 for rank in ranks) * (out + width) < out * width


def _dense_pair(a: Delta, b: Delta, base: Array | None) -> tuple[Any, Any]:
    x, y = a.delta(base), b.delta(base)
    return doubles(x), doubles(beside(y, x).reshape(x.shape))


def _dense_norm(x: Any) -> float:
    return float((x * x).sum()) ** 0.5
