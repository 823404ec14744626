"""Which pictures are held out: by what they are, so that no copy of one lands on the other side."""

import hashlib
from collections.abc import Iterable, Sequence


def split(
    keys: Sequence[str], share: float, seed: int = 0, alike: Iterable[tuple[int, int]] = ()
) -> tuple[list[int], list[int]]:
    """Indices to train on and indices held out, each at least one.

    keys    names each picture by its content; equal keys stay together
    share   of the pictures to hold out, above 0 and below 1, about
    alike   pairs of indices that must stay together too
    raises  ValueError where there are fewer than two different pictures

    A picture's side depends on its content, `share` and `seed`, so others that come or go do not move it; the exception
    is a set so small that one side would be empty. A larger share holds out all that a smaller one does.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share to hold out must be above 0 and below 1, got {share}")
    leader = dict(zip(keys, keys, strict=True))

    def of(key: str) -> str:
        while leader[key] != key:
            key = leader[key]
        return key

    for i, j in alike:
        low, high = sorted((of(keys[i]), of(keys[j])))
        leader[high] = low
    places = {key: _place(of(key), seed) for key in leader}
    order = sorted(set(places.values()))
    if len(order) < 2:
        raise ValueError("two different pictures are needed, one to train on and one to hold out")
    most = min(max(share, order[0]), order[-2])  # one at least on each side
    held = [i for i, key in enumerate(keys) if places[key] <= most]
    return [i for i, key in enumerate(keys) if places[key] > most], held


def _place(key: str, seed: int) -> float:
    """Where in 0..1 a picture falls."""
    return int.from_bytes(hashlib.sha256(f"split {seed} {key}".encode()).digest()[:8], "big") / 2**64
