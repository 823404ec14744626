"""Which pictures look the same: a perceptual hash finds candidates, a tiny colour picture decides."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

_SIDE = 8  # of the tiny picture
_MOST_BITS = 4  # of 64 that may differ
_MOST_DIFFERENCE = 6.0  # of the tiny pictures, root mean square, 0..255


class Look(NamedTuple):
    """What a picture looks like from afar: 64 bits, and 8x8 colours as bytes."""

    bits: int
    colours: bytes


def _cosines(size: int, count: int) -> np.ndarray:
    """The first `count` rows of the discrete cosine transform over `size` values."""
    k, n = np.mgrid[:count, :size]
    return np.cos(np.pi * k * (n + 0.5) / size)


def look(picture: Image.Image) -> Look:
    """The DCT hash of the grey picture at 32x32 (Zauner, 2010): which of the 8x8 lowest frequencies lie above their
    median. It holds under scaling, recompression and faint changes of tone."""
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=np.float64)
    basis = _cosines(32, 9)
    waves = (basis @ grey @ basis.T)[1:9, 1:9].ravel()
    bits = int("".join("1" if above else "0" for above in waves > np.median(waves)), 2)
    return Look(bits, picture.resize((_SIDE, _SIDE), Image.Resampling.BOX).tobytes())


def alike(a: Look, b: Look) -> bool:
    """Would a person call these the same picture?"""
    if (a.bits ^ b.bits).bit_count() > _MOST_BITS:
        return False
    one, other = (np.frombuffer(x.colours, np.uint8).astype(np.float32) for x in (a, b))
    return float(np.sqrt(np.square(one - other).mean())) <= _MOST_DIFFERENCE


@dataclass
class Index:
    """Looks to compare new ones with. Two hashes that differ in at most four bits agree in one of five bands."""

    def __post_init__(self) -> None:
        self._bands: dict[tuple[int, int], list[int]] = {}
        self._looks: list[Look] = []

    def _keys(self, look: Look) -> Iterator[tuple[int, int]]:
        for band in range(_MOST_BITS + 1):
            start, end = 64 * band // (_MOST_BITS + 1), 64 * (band + 1) // (_MOST_BITS + 1)
            yield band, (look.bits >> start) & ((1 << (end - start)) - 1)

    def find(self, look: Look) -> int | None:
        """The number of the first look added that is alike."""
        tried: set[int] = set()
        for key in self._keys(look):
            tried.update(self._bands.get(key, ()))
        return next((number for number in sorted(tried) if alike(self._looks[number], look)), None)

    def add(self, look: Look) -> int:
        number = len(self._looks)
        self._looks.append(look)
        for key in self._keys(look):
            self._bands.setdefault(key, []).append(number)
        return number
