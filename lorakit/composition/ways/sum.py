"""All adapters at once, each at its weight."""

from collections.abc import Sequence


def passes(step: int, weights: Sequence[float]) -> list[tuple[float, list[float]]]:
    return [(1.0, list(weights))]
