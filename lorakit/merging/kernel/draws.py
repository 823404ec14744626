"""Randomness by name, in numpy: every draw is a function of what it is for, never of what was drawn before."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*key: int | str) -> np.random.Generator:
    """A generator whose state depends on `key` alone; equal keys draw equal numbers on every machine.

    Salmon et al., 2011 (Philox).
    """
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
