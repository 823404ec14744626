"""Randomness by name: every draw is a function of (seed, what for), never of what was drawn before.

`offset`, `multires` and `perturbed` change one sample's noise by a generator of its own; at strength 0 they give the
very tensor back and draw nothing.
"""

import hashlib
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator whose state depends on `key` alone; equal keys draw equal numbers on every machine."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def normal(shape: Sequence[int], *key: int | str) -> Tensor:
    return torch.randn(tuple(shape), generator=generator(*key))


def offset(noise: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    """noise [c, h, w] and one more normal number a channel, times strength: brightness as a whole is learnt.

    Guttenberg, 2023.
    """
    if strength == 0:
        return noise
    return noise + strength * torch.randn(noise.shape[0], 1, 1, generator=draw)


def multires(noise: Tensor, strength: float, draw: torch.Generator, levels: int = 6) -> Tensor:
    """noise [c, h, w] and coarser noise, each level of half the last one's sides and `strength` times its size.

    Whitaker, 2023 ("pyramid noise"). Each number is still normal with spread 1: the spread that interpolation takes
    from a coarse level at each place is given back there, and the sum's is divided out.
    """
    if strength == 0:
        return noise
    _, h, w = noise.shape
    whole, power = noise, 1.0
    for level in range(1, levels + 1):
        sides = (max(1, h >> level), max(1, w >> level))
        coarse = torch.randn(noise.shape[0], *sides, generator=draw)
        rows, columns = _stretch(sides[0], h), _stretch(sides[1], w)
        spread = rows.square().sum(1)[:, None] * columns.square().sum(1)
        whole = whole + strength**level * (rows @ coarse @ columns.T) / spread.sqrt()
        power += strength ** (2 * level)
        if sides == (1, 1):
            break
    return whole / power**0.5


@cache
def _stretch(small: int, large: int) -> Tensor:
    """Linear interpolation as a matrix [large, small]."""
    return functional.interpolate(torch.eye(small)[None], large, mode="linear", align_corners=False)[0].T


def perturbed(noise: Tensor, strength: float, draw: torch.Generator) -> Tensor:
    """What to make the model's input of, in the place of `noise`, which stays what it is to say. Ning et al., 2023."""
    if strength == 0:
        return noise
    return noise + strength * torch.randn(noise.shape, generator=draw)
