"""Figures by module as lines for people: those that lost most, or all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LISTED = 5
_NOTHING = 1e-11  # of the squared norm: what float32 loses of a whole one


@dataclass(frozen=True)
class Line:
    """A module.

    kept   share of its squared norm, 0 to 1
    above  by this at most is its error above the least there can be at its rank, relative to its norm; None where it
           is that least by construction
    """

    name: str
    rank: int
    kept: float
    above: float | None = None


def table(modules: Sequence[Line], everything: bool = False) -> list[str]:
    """The modules that lost most to their rank, with how many did; nothing where nothing is lost.

    everything  all modules, what lost nothing too
    """
    lost = sum(1 - one.kept > _NOTHING for one in modules)
    if not (lost or everything):
        return []
    worst = sorted(modules, key=lambda one: (one.kept, one.name))
    shown = worst if everything else worst[: min(lost, LISTED)]
    wide = max((len(one.name) for one in shown), default=0)
    head = f"{lost} of {len(modules)} modules lost something to their rank"
    head += ":" if everything or lost <= LISTED else f", the {LISTED} that lost most (--verbose lists all):"
    return [head, *(_line(one, wide) for one in shown)]


def _line(one: Line, wide: int) -> str:
    error = max(0.0, 1 - one.kept) ** 0.5
    above = "" if one.above is None else f"  at most {one.above:.1g} above the least"
    return f"  {one.name:{wide}}  rank {one.rank:4}  kept {one.kept:8.3%}  error {error:.2e}{above}"
