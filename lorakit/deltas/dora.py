"""DoRA: the length of every row or column of the adapted weight learned apart from its direction (Liu et al., 2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Self

from lorakit import deltas
from lorakit.algebra import as_type, doubles, lib_of
from lorakit.arrays import Array
from lorakit.delta import Delta, difference, relative_error
from lorakit.deltas import loha, lokr, low_rank, tucker
from lorakit.deltas._parts import take

SUFFIXES = frozenset({"dora_scale"}).union(*(kind.SUFFIXES for kind in (low_rank, tucker, loha, lokr)))


@dataclass(frozen=True)
class DoRA(Delta):
    """delta = magnitude * (base + inner) / ||base + inner|| - base, the norm of every output's row or input's column.

    At a weight w it acts as w * delta, as in ComfyUI and A1111: at 0 the model is untouched, at 0.5 half of the way is
    gone. PEFT scales the inner delta before it takes the norm, and at 0 leaves magnitude * base / ||base||.

    inner      a low-rank delta, scale and all
    magnitude  an output's, [out] or [out, 1, ..], or an input's, [1, in, ..]; a row whose norm is 0 becomes 0

    PEFT's magnitude of a convolution is [1, out, 1, 1]; its codec makes it [out], or it would read as an input's.
    """

    kind: ClassVar[str] = "dora"
    needs_base: ClassVar[bool] = True

    inner: Delta
    magnitude: Array

    @property
    def axis(self) -> int:
        """Of the weight, along which the magnitude lies: 0, its outputs, or 1, its inputs."""
        single = prod(self.magnitude.shape) == 1 and self.inner.shape is not None and self.inner.shape[0] == 1
        return 1 if self.magnitude.ndim > 1 and self.magnitude.shape[0] == 1 and not single else 0

    @property
    def rank(self) -> int | None:
        return self.inner.rank

    @property
    def shape(self) -> tuple[int, ...] | None:
        return self.inner.shape

    def delta(self, base: Array | None = None) -> Array:
        frozen = self.against(base, self.magnitude)
        plain = self.inner.delta()
        if frozen.shape[0] != plain.shape[0] or prod(frozen.shape) != prod(plain.shape):
            raise ValueError(f"a delta of {tuple(plain.shape)} for a base model's weight of {tuple(frozen.shape)}")
        if frozen.shape[self.axis] != prod(self.magnitude.shape):
            raise ValueError(
                f"dora_scale {tuple(self.magnitude.shape)} does not fit a base model's weight of {tuple(frozen.shape)}"
            )
        plain = plain.reshape(frozen.shape)
        factor = self._stretch(frozen + plain)
        less = as_type(factor - 1, frozen)  # in float64 until here: what the base loses is small
        return less * frozen + as_type(factor, frozen) * plain

    def _stretch(self, adapted: Any) -> Any:
        """magnitude / norm, ready to broadcast over the weight, in float64."""
        squares = doubles(adapted).reshape(*adapted.shape[:2], -1) ** 2
        norms = squares.sum(2).sum(1 - self.axis) ** 0.5
        factor = doubles(self.magnitude).reshape(-1) / lib_of(norms).where(norms > 0, norms, norms + 1)
        return factor.reshape([len(norms) if i == self.axis else 1 for i in range(adapted.ndim)])

    def apart(self, other: Delta) -> float:
        """The worse of the low-rank part's error and the lengths'. Factors are not compared: a format may hold the same
        delta at another scale."""
        if not isinstance(other, DoRA) or self.axis != other.axis:
            return float("inf")
        return max(relative_error(self.inner, other.inner), difference(self.magnitude, other.magnitude))

    def arrays(self) -> dict[str, Array]:
        return {**self.inner.arrays(), "magnitude": self.magnitude}

    def mapped(self, change: Callable[[Array], Array]) -> Self:
        return replace(self, inner=self.inner.mapped(change), magnitude=change(self.magnitude))


def matches(parts: Mapping[str, Array]) -> bool:
    return "dora_scale" in parts


def read(parts: Mapping[str, Array], shape: tuple[int, ...] | None) -> DoRA:
    (magnitude,) = take(parts, "dora_scale")
    rest = {key: array for key, array in parts.items() if key != "dora_scale"}
    if not rest.keys() - {"alpha"}:
        raise ValueError("dora_scale is alone; the delta it belongs to is missing")
    delta = DoRA(deltas.read(rest, shape), magnitude)
    if not _fits(delta):
        raise ValueError(
            f"dora_scale {tuple(magnitude.shape)} does not fit a delta of {delta.shape}; expected one number an output, "
            "[out, 1, ..], or an input, [1, in, ..]"
        )
    return delta


def _fits(delta: DoRA) -> bool:
    """Whether there is one number a channel; a flat convolution's inputs come with the points of its kernel."""
    shape, sizes = delta.shape, delta.magnitude.shape
    if not sizes or max(sizes) != prod(sizes) or shape is None:
        return False
    n = shape[delta.axis]
    return n == max(sizes) or (
        delta.axis == 1 and len(shape) == 2 and n % max(sizes) == 0 and delta.magnitude.ndim == 4
    )


def write(delta: DoRA) -> dict[str, Array]:
    return {**deltas.write(delta.inner), "dora_scale": delta.magnitude}
