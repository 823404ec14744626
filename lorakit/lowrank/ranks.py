"""How many singular triplets each delta of an adapter keeps. Imports nothing heavy: command lines hold a Rule too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from lorakit.lowrank.decomposed import Decomposed

Kind = Literal["full", "fixed", "energy", "auto", "budget"]
_EPS32, _EPS64 = 2.0**-23, 2.0**-52


@dataclass(frozen=True)
class RankRule:
    """What decides a module's rank.

    kind    full: all that is not numerically zero; fixed: `value` triplets; energy: the fewest that hold the share
            `value` of the squared Frobenius norm; auto: those above the noise of the numbers; budget: as many as fit
            into `value` bytes over all modules, the best first
    cap     no module's rank is above this
    """

    kind: Kind
    value: float = 0.0
    cap: int | None = None

    def __post_init__(self) -> None:
        wrong = {
            "fixed": self.value < 1 or self.value != int(self.value),
            "energy": not 0 < self.value <= 1,
            "budget": self.value < 0,
        }
        if wrong.get(self.kind) or (self.cap is not None and self.cap < 1):
            raise ValueError(f"no such rule of ranks: {self.kind} {self.value:g}, at most {self.cap}")

    @property
    def cuts(self) -> bool:
        """Whether it can leave out more than numerical zeros."""
        return self.kind != "full" or self.cap is not None


def allot(
    found: Mapping[str, Decomposed], rule: RankRule, bytes_a_number: int = 4, bytes_a_module: int = 0
) -> dict[str, int]:
    """Module to rank; 0 where a delta is 0, and where a budget has no room for it.

    bytes_a_module  what a budget pays for a module besides its factors: keys, alpha
    """
    values = {name: _values(one) for name, one in found.items()}
    limits = {name: _limit(found[name], values[name], rule) for name in found}
    if rule.kind == "budget":
        return _spread(found, values, limits, rule.value, bytes_a_number, bytes_a_module)
    return limits


def numerical_rank(s: Any, largest: float | None = None, sides: int = 1, single: bool = False) -> int:
    """How many of the falling values s are not zero but for rounding.

    largest  what they are measured against; the first of them where it is None
    sides    the larger side of the matrix
    single   its numbers were rounded to float32, not only written in it
    """
    if not len(s):
        return 0
    top = float(s[0]) if largest is None else largest
    return int((s > top * sides * (_EPS32 if single else _EPS64)).sum())


def _values(one: Decomposed) -> Any:
    from lorakit.algebra import doubles
    from lorakit.arrays import is_torch

    values = doubles(one.s)
    return values.cpu().numpy() if is_torch(values) else values


def _limit(one: Decomposed, s: Any, rule: RankRule) -> int:
    """The rank of a module by itself."""
    import numpy as np

    sides = max(one.u.shape[0], one.vh.shape[1])
    rank = numerical_rank(s, sides=sides)
    if rule.kind == "fixed":
        rank = min(rank, int(rule.value))
    elif rule.kind == "auto":
        rank = min(numerical_rank(s, sides=sides, single=True), int((s > one.floor).sum()))
    elif rule.kind == "energy" and rule.value < 1:
        # One part in 10^12 less than asked: a share worked out from these very values is met by them.
        held = np.cumsum(s**2)
        rank = min(rank, 1 + int((held < rule.value * one.total * (1 - 1e-12)).sum()))
    return rank if rule.cap is None else min(rank, rule.cap)


def _spread(
    found: Mapping[str, Decomposed],
    values: Mapping[str, Any],
    limits: Mapping[str, int],
    budget: float,
    bytes_a_number: int,
    bytes_a_module: int,
) -> dict[str, int]:
    """Triplets by what they gain a byte, the best first. A module's own fall and cost the same, so they come in order."""
    import numpy as np

    names = sorted(name for name in found if limits[name])
    ranks = dict.fromkeys(found, 0)
    if not names:
        return ranks
    costs = [found[name].numbers_a_rank * bytes_a_number for name in names]
    gains = np.concatenate([values[name][: limits[name]] ** 2 / cost for name, cost in zip(names, costs, strict=True)])
    owners = np.repeat(np.arange(len(names)), [limits[name] for name in names])
    left = budget
    for owner in owners[np.argsort(-gains, kind="stable")].tolist():
        name = names[owner]
        cost = costs[owner] + (0 if ranks[name] else bytes_a_module)
        if cost <= left:  # where one does not fit, none of its module that follows does
            ranks[name] += 1
            left -= cost
    return ranks
