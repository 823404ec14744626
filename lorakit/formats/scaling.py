"""Factors and scales as the writers of adapter files need them: one alpha, shapes of the model, halves that do not overflow."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np

from lorakit.arrays import Array, Stored, cast, changed, dtype_of, floats, is_torch, times_power_of_two
from lorakit.deltas.low_rank import LowRank
from lorakit.families import Shape
from lorakit.formats.codec import LOSS


def scaled(x: Array, factor: float) -> Array:
    """x * factor with no more rounding than float32 has: a half-precision array becomes float32 where its own type
    cannot hold the product (any factor but a power of two, or one that leaves its range)."""
    if factor == 1:
        return x
    kind = dtype_of(x)
    if kind in ("F16", "BF16"):
        mantissa, exponent = math.frexp(factor)
        if isinstance(x, Stored) and mantissa == 0.5:
            found = times_power_of_two(x, exponent - 1)
            if found is not None and found[1] < LOSS:
                return found[0]
        if abs(mantissa) != 0.5 or not _holds(x, factor, kind):
            kind = "F32"
    elif kind != "F64":
        kind = "F32"
    return changed(x, kind, lambda values: values * factor)


def _holds(x: Array, factor: float, kind: str) -> bool:
    """Whether x * factor is as good in its own type: numbers that end below the normal ones may lose their last bits."""
    product = floats(x) * factor
    lost = floats(cast(product, kind)) - product
    return bool((lost * lost).sum() <= LOSS**2 * (product * product).sum())


def with_scale(delta: LowRank, alpha: float) -> LowRank:
    """The same delta at another alpha: the ratio goes into the factors, powers of two split between them."""
    ratio = delta.alpha / alpha
    if ratio == 1:
        return delta
    mantissa, exponent = math.frexp(ratio)  # ratio = mantissa * 2**exponent, 0.5 <= |mantissa| < 1
    half = exponent // 2
    return LowRank(scaled(delta.down, 2.0**half), scaled(delta.up, mantissa * 2.0 ** (exponent - half)), alpha)


def shaped(delta: LowRank, wanted: Shape | None) -> LowRank:
    """Factors with as many dimensions as the weight has: clients refuse a linear module's as a 1x1 convolution's."""
    if wanted is None or len(wanted) not in (2, 4):
        return delta
    down, up = delta.down, delta.up
    if len(wanted) == 4:
        down = down if down.ndim == 4 else reshaped(down, (down.shape[0], *wanted[1:]))
        up = up if up.ndim == 4 else reshaped(up, (*up.shape, 1, 1))
    else:
        down = down if down.ndim == 2 else reshaped(down, (down.shape[0], math.prod(down.shape[1:])))
        up = up if up.ndim == 2 else reshaped(up, tuple(up.shape[:2]))
    return LowRank(down, up, delta.alpha)


def reshaped(x: Array, shape: Shape) -> Array:
    """The same values in another shape, read when they are asked for."""
    return Stored(x.dtype, shape, x.raw) if isinstance(x, Stored) else x.reshape(shape)


def balanced(delta: LowRank) -> LowRank:
    """Factors whose largest values are within a power of two of each other: none leaves half precision's range."""
    tops = [float(abs(floats(x)).max()) for x in (delta.up, delta.down)]
    if not all(tops):
        return delta
    shift = round(math.log2(tops[0] / tops[1]) / 2)
    if shift == 0:
        return delta
    down = changed(delta.down, "F32", lambda values: values * 2.0**shift)
    return LowRank(down, changed(delta.up, "F32", lambda values: values * 2.0**-shift), delta.alpha)


def common_alpha(alphas: Iterable[float]) -> float:
    """The commonest alpha, if every float type holds it exactly (8 bits of mantissa), else 1."""
    counts = Counter(alphas)
    if not counts:
        return 1.0
    most = max(counts.items(), key=lambda item: (item[1], item[0]))[0]
    mantissa, _ = math.frexp(most)
    return most if most > 0 and math.isfinite(most) and mantissa * 256 == int(mantissa * 256) and most < 2**15 else 1.0


def scalar(value: float, like: Array) -> Array:
    """A float32 scalar for a file, numpy or torch as its module is."""
    if is_torch(like):
        import torch

        return torch.tensor(value, dtype=torch.float32)
    return np.array(value, np.float32)
