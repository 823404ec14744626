"""One adapter at a time, the next every so many steps (LoRA Switch, Zhong et al., 2024)."""

from collections.abc import Sequence


def passes(step: int, weights: Sequence[float], *, every: float = 1) -> list[tuple[float, list[float]]]:
    """every    steps that each has in a row; ValueError below 1"""
    if every < 1 or every != int(every):
        raise ValueError(f"every is {every:g}, expected a whole number of steps from 1")
    active = (step // int(every)) % len(weights)
    return [(1.0, [weight if i == active else 0.0 for i, weight in enumerate(weights)])]
