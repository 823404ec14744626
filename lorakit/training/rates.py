"""Learning rate by step, as functions."""

import math
from collections.abc import Callable

from lorakit.errors import UsageError
from lorakit.registry import nearest

# From 1 at the start to 0 at the end of the way, by the share done, 0 to 1; cycles and power are what two of them take.
_FALLS: dict[str, Callable[[float, int, float], float]] = {
    "constant": lambda done, cycles, power: 1.0,
    "linear": lambda done, cycles, power: 1 - done,
    "cosine": lambda done, cycles, power: (1 + math.cos(math.pi * done)) / 2,
    "cosine-restarts": lambda done, cycles, power: (1 + math.cos(math.pi * (done * cycles % 1))) / 2,
    "polynomial": lambda done, cycles, power: (1 - done) ** power,
}
SCHEDULES = tuple(_FALLS)
_WARMUP, _CYCLES = 10, 3


def rate(
    step: int,
    steps: int,
    peak: float,
    schedule: str,
    warmup: int | None,
    *,
    cycles: int | None = None,
    power: float = 2.0,
    floor: float = 0.2,
) -> float:
    """The rate of step 0 .. steps-1: up in a line over `warmup` steps, and by the schedule from peak to floor * peak.

    warmup   None for 10 steps, or half of a run of fewer than 20
    cycles   of cosine-restarts, each from the peak (Loshchilov and Hutter, 2017); None for 3, or less in a run of few steps
    power    of polynomial
    raises   UsageError for a schedule there is not
    """
    if schedule not in _FALLS:
        raise UsageError(f"--lr-schedule {schedule}: there are {', '.join(SCHEDULES)}{nearest(schedule, SCHEDULES)}")
    rising = min(_WARMUP, steps // 2) if warmup is None else warmup
    rise = min(1.0, (step + 1) / (rising + 1))
    times = max(1, min(_CYCLES, steps // 2)) if cycles is None else cycles
    fall = _FALLS[schedule](step / max(1, steps), times, power)
    return peak * rise * (floor + (1 - floor) * fall)
