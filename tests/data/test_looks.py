import random

import numpy as np

from lorakit.data.looks import Index, Look


def _first_alike(looks: list[Look], look: Look) -> int | None:
    """The promise in plain: at most 4 bits of the hash differ, and the colours by a root mean square of at most 6."""
    for number, other in enumerate(looks):
        a, b = (np.frombuffer(x.colours, np.uint8).astype(float) for x in (other, look))
        if (other.bits ^ look.bits).bit_count() <= 4 and np.sqrt(np.square(a - b).mean()) <= 6:
            return number
    return None


def _changed(look: Look, draw: random.Random) -> Look:
    """The same picture with some bits of the hash turned, and its channels shifted by up to ten."""
    bits = look.bits
    for _ in range(draw.randrange(7)):
        bits ^= 1 << draw.randrange(64)
    off = [draw.uniform(-10, 10) * draw.random() for _ in range(3)]
    colours = (round(value + off[at % 3] + draw.gauss(0, 3)) for at, value in enumerate(look.colours))
    return Look(bits, bytes(min(255, max(0, value)) for value in colours))


def test_the_index_finds_what_a_comparison_with_all_finds():
    draw, index, looks, found = random.Random(0), Index(), [], 0
    for number in range(600):
        look = Look(draw.getrandbits(64), bytes(draw.randrange(256) for _ in range(192)))
        if number % 3:
            look = _changed(draw.choice(looks), draw)
        first = index.find(look)
        assert first == _first_alike(looks, look)
        found += first is not None
        looks.append(look)
        index.add(look)
    assert 200 < found < 300


def test_pictures_of_one_shape_in_other_colours_are_not_each_compared_with_all():
    draw, index, compared = random.Random(0), Index(), 0
    for _ in range(2000):
        look = Look(0, bytes(draw.randrange(256) for _ in range(3)) * 64)
        compared += len(index.near(look))
        index.add(look)
    assert compared < 2000 * 2000 / 2 / 50
