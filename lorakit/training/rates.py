"""Learning rate by step, as functions."""

import math


def rate(step: int, steps: int, peak: float, schedule: str, warmup: int) -> float:
    """The rate of step 0 .. steps-1: up in a line over `warmup` steps, then constant, or falling to a fifth."""
    rise = min(1.0, (step + 1) / (warmup + 1))
    done = step / max(1, steps)
    fall = {"constant": 1.0, "linear": 1 - 0.8 * done, "cosine": 0.6 + 0.4 * math.cos(math.pi * done)}[schedule]
    return peak * rise * fall
