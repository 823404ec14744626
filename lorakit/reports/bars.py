"""A curve in text, for terminals and logs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def bars(values: Sequence[float], columns: int, rows: int) -> list[str]:
    """Values from 0 up as columns of blocks, the largest as high as there are rows; gives the rows, the uppermost first.

    Of several values that share a column the largest is shown.
    """
    width, most = min(columns, len(values)), max(values, default=0.0)
    cuts = [i * len(values) // width for i in range(width + 1)] if width else []
    tops = [max(values[a:b]) for a, b in pairwise(cuts)]
    heights = [round(8 * rows * top / most) if most > 0 else 0 for top in tops]
    return ["".join(_EIGHTHS[min(8, max(0, height - 8 * row))] for height in heights) for row in reversed(range(rows))]
