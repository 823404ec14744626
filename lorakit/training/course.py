"""How the rate of a group of parameters goes over a run, as figures and as a drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.reports.bars import bars
from lorakit.training.loop import ParameterGroup

_MOST = 20_000  # steps that are looked at
_POINTS = 200  # that are told
_COLUMNS, _ROWS = 60, 6


@dataclass(frozen=True)
class Course:
    """The rates of a group at the steps that it learns at, counted from 1; the factors of single parameters are apart."""

    points: Sequence[tuple[int, float]]
    factors: Sequence[float] = ()

    @property
    def peak(self) -> tuple[int, float]:
        """(step, rate), the first of the highest."""
        return max(self.points, key=lambda point: (point[1], -point[0]), default=(0, 0.0))

    @property
    def last(self) -> float:
        return self.points[-1][1] if self.points else 0.0

    def figures(self) -> dict[str, Any]:
        count = len(self.points)
        wanted = (
            {round(i * (count - 1) / (_POINTS - 1)) for i in range(_POINTS)} if count > _POINTS else set(range(count))
        )
        step, rate = self.peak
        return {
            "peak": rate,
            "peak_step": step,
            "last": self.last,
            "factors": list(self.factors),
            "points": [list(point) for i, point in enumerate(self.points) if i in wanted or point[0] == step],
        }

    def told(self) -> str:
        """ "highest 0.00198 in step 12, last 0.0004", and what single parameters learn at."""
        step, rate = self.peak
        own = [factor for factor in self.factors if factor != 1]
        more = f"; for some parameters times {' or '.join(f'{factor:g}' for factor in own[:4])}" if own else ""
        return f"highest {rate:.3g} in step {step}, last {self.last:.3g}{more}"

    def drawn(self) -> list[str]:
        """The curve in text, under its highest rate and above the steps."""
        if not self.points:
            return []
        label = f"{self.peak[1]:.3g}"
        rows = bars([rate for _, rate in self.points], _COLUMNS, _ROWS)
        left = [label, *[""] * (_ROWS - 2), "0"]
        first, last = (str(self.points[i][0]) for i in (0, -1))
        gap = " " * max(1, len(rows[0]) - len(first) - len(last))
        lines = [f"{text:>{len(label)}} ┤{row}".rstrip() for text, row in zip(left, rows, strict=True)]
        return [*lines, f"{'step':>{max(4, len(label))}} {' ' * (len(label) < 4)}{first}{gap}{last}"]


def course(group: ParameterGroup, steps: int) -> Course:
    """Of a run of so many steps; of a long one, as much as is worth looking at."""
    stride = max(1, steps // _MOST) | 1  # odd: groups that take turns are seen too
    seen = sorted({*range(0, steps, stride), max(0, steps - 2), steps - 1})
    points = [(step + 1, group.rate(step)) for step in seen if group.learns(step)]
    return Course(points, sorted({group.factors.get(name, 1.0) for name in group.parameters}))
