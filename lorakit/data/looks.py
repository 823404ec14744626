"""Which pictures look the same: a perceptual hash finds candidates, a tiny colour picture decides."""

import itertools
import math
from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

_SIDE = 8  # of the tiny picture
_MOST_BITS = 4  # of 64 that may differ
_MOST_DIFFERENCE = 6.0  # of the tiny pictures, root mean square, 0..255
_CELL = 2 * math.sqrt(3) * _MOST_DIFFERENCE  # side of the cells of mean colours: what is alike lies in the next at most


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


def _same_colours(looks: list[Look], look: Look) -> Iterator[int]:
    """Places in `looks` of those whose tiny pictures show the colours of `look`."""
    if looks:
        others = np.frombuffer(b"".join(other.colours for other in looks), np.uint8).reshape(len(looks), -1)
        difference = others.astype(np.float32) - np.frombuffer(look.colours, np.uint8)
        yield from np.flatnonzero(np.sqrt(np.square(difference).mean(1)) <= _MOST_DIFFERENCE).tolist()


def _cell(value: float) -> int:
    return int(value // _CELL)


class Index:
    """Looks to compare new ones with, few of them for each.

    Two hashes that differ in at most four bits agree in one of five bands; and where colours differ by no more than is
    allowed, so does the mean of each channel, by the root of three times that. Without the latter, pictures with the
    same shapes in other colours (icons, blank frames) would each be compared with all.
    """

    def __init__(self) -> None:
        self._looks: list[Look] = []
        self._last: dict[int, int] = {}  # the last look that was added at a place
        self._before = [array("l") for _ in range(_MOST_BITS + 1)]  # by band and look, the one before it there, or -1

    @staticmethod
    def _bands(look: Look) -> Iterator[tuple[int, int]]:
        for band in range(_MOST_BITS + 1):
            start, end = 64 * band // (_MOST_BITS + 1), 64 * (band + 1) // (_MOST_BITS + 1)
            yield band, (look.bits >> start) & ((1 << (end - start)) - 1)

    @staticmethod
    def _means(look: Look) -> list[float]:
        return [sum(look.colours[channel::3]) / _SIDE**2 for channel in range(3)]

    def near(self, look: Look) -> set[int]:
        """Numbers of those that are worth a comparison, all that are alike among them."""
        reach = [sorted({_cell(mean - _CELL / 2), _cell(mean + _CELL / 2)}) for mean in self._means(look)]
        near: set[int] = set()
        for band, cells in itertools.product(self._bands(look), itertools.product(*reach)):
            number = self._last.get(hash((*band, *cells)), -1)
            while number >= 0:
                near.add(number)
                number = self._before[band[0]][number]
        return near

    def find(self, look: Look) -> int | None:
        """The number of the first look added that is alike."""
        tried = sorted(n for n in self.near(look) if (self._looks[n].bits ^ look.bits).bit_count() <= _MOST_BITS)
        return next((tried[i] for i in _same_colours([self._looks[n] for n in tried], look)), None)

    def add(self, look: Look) -> int:
        number = len(self._looks)
        self._looks.append(look)
        cells = [_cell(mean) for mean in self._means(look)]
        for band in self._bands(look):
            place = hash((*band, *cells))
            self._before[band[0]].append(self._last.get(place, -1))
            self._last[place] = number
        return number
