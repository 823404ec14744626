"""What every kind of delta can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, ClassVar, Self

from lorakit.arrays import Array, Stored, floats, is_torch


class NeedsBase(TypeError):
    """The delta depends on the weight of the base model."""


def is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "ndim")


def doubles(x: Array) -> Any:
    """The values in float64, in numpy or torch."""
    values = floats(x)
    return values.double() if is_torch(values) else values.astype("f8")


@dataclass(frozen=True)
class Delta:
    """What an adapter adds to one weight. Its fields are arrays as a file holds them, no scale applied, and numbers.

    Arithmetic gives numpy arrays, or torch tensors where the fields are torch tensors.
    """

    kind: ClassVar[str]
    needs_base: ClassVar[bool] = False

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of the weight it is added to; None where the fields do not tell. A flattened kernel stays flat."""
        raise NotImplementedError

    @property
    def rank(self) -> int | None:
        """The rank as people name it, None for kinds without one."""
        return None

    def factors(self) -> tuple[Array, Array]:
        """(up [out, r], down [r, in*kh*kw]) whose product is exactly the delta, the scale in them.

        NeedsBase or TypeError for kinds that are not low rank.
        """
        raise TypeError(f"a {self.kind} delta is not low rank")

    def delta(self, base: Array | None = None) -> Array:
        """Dense, in `shape`; NeedsBase where it depends on the base weight and none is given."""
        up, down = self.factors()
        dense = up @ down
        return dense if self.shape is None else dense.reshape(self.shape)

    def norm(self) -> float:
        """The Frobenius norm, without forming the delta where the kind allows it; NeedsBase as `delta`."""
        up, down = self.factors()
        up, down = doubles(up), doubles(down)
        return max(0.0, float(((up.T @ up) * (down @ down.T)).sum())) ** 0.5

    def arrays(self) -> dict[str, Array]:
        return {f.name: value for f in fields(self) if is_array(value := getattr(self, f.name))}

    def mapped(self, change: Callable[[Array], Array]) -> Self:
        """The same delta with each array changed: cast, moved, read."""
        return replace(self, **{name: change(value) for name, value in self.arrays().items()})

    def materialised(self) -> Self:
        """The same over torch tensors, read from the file."""
        return self.mapped(lambda x: x.tensor() if isinstance(x, Stored) else x)

    @property
    def parameters(self) -> int:
        return sum(prod(x.shape) for x in self.arrays().values())


def inner(a: Delta, b: Delta) -> float:
    """The Frobenius inner product of two low-rank deltas of one weight, by their factors."""
    (ua, da), (ub, db) = ((doubles(up), doubles(down)) for up, down in (a.factors(), b.factors()))
    return float(((ua.T @ ub) * (da @ db.T)).sum())


def relative_error(wanted: Delta, got: Delta) -> float:
    """||got - wanted|| / ||wanted||, by factors where both have them, else dense; the norm of `got` where wanted is 0."""
    try:
        ua, da = map(doubles, wanted.factors())
        ub, db = map(doubles, got.factors())
    except NeedsBase:
        raise
    except TypeError:
        a, b = doubles(wanted.delta()), doubles(got.delta())
        size = float((a * a).sum()) ** 0.5
        return float(((a - b.reshape(a.shape)) ** 2).sum()) ** 0.5 / (size or 1.0)
    gram = float(((ua.T @ ua) * (da @ da.T)).sum())
    # The difference as one product of stacked factors: its norm by an orthogonal basis does not cancel.
    return _product_norm([ua, -ub], [da, db]) / (gram**0.5 or 1.0)


def _product_norm(ups: list[Any], downs: list[Any]) -> float:
    """||sum of up @ down||, [out, r] and [r, n] each, by QR of the narrower side: no cancellation of large squares."""
    import sys

    lib: Any = sys.modules["torch"] if is_torch(ups[0]) else __import__("numpy")
    up, down = lib.concatenate(ups, 1), lib.concatenate(downs, 0)
    r_up = lib.linalg.qr(up, mode="r")
    r_down = lib.linalg.qr(down.T, mode="r")
    r_up, r_down = (r[1] if isinstance(r, tuple) else r for r in (r_up, r_down))
    return float(((r_up @ r_down.T) ** 2).sum()) ** 0.5
