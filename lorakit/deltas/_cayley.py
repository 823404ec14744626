"""Rotations by Cayley's transform, as OFT learns them (Qiu et al., 2023)."""

from __future__ import annotations

from typing import Any

from lorakit.algebra import doubles, eye, lib_of
from lorakit.arrays import Array


def turn(blocks: Array, limit: float) -> Any:
    """R - I for the rotation R = (I + Q) (I - Q)⁻¹ of each block [..., b, b], Q = block - blockᵀ, in float64.

    limit   above 0, Q is shrunk to this Frobenius norm, that of all blocks together, where it is larger
    """
    x = doubles(blocks)
    q = x - x.swapaxes(-1, -2)
    size = float((q * q).sum()) ** 0.5 + 1e-8  # LyCORIS adds it
    if 0 < limit < size:
        q = q * (limit / size)
    return 2 * q @ lib_of(x).linalg.inv(eye(x.shape[-1], x) - q)  # R - I without the I, which would cancel
