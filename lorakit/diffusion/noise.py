"""Randomness by name: every draw is a function of (seed, what for), never of what was drawn before."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator whose state depends on `key` alone; equal keys draw equal numbers on every machine."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def normal(shape: Sequence[int], *key: int | str) -> Tensor:
    return torch.randn(tuple(shape), generator=generator(*key))


def add_noise(latents: Tensor, noise: Tensor, alphas: Tensor) -> Tensor:
    """latents, noise [b, c, h, w], alphas [b] (cumulative products at the timesteps). Ho et al., 2020."""
    a = alphas[:, None, None, None]
    return a.sqrt() * latents + (1 - a).sqrt() * noise
