"""`--rank`, `--max-rank` and `--budget` read into a Rule, at once and without torch."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from lorakit.errors import UsageError
from lorakit.lowrank.ranks import RankRule

_SIZE = re.compile(r"(\d+\.?\d*|\.\d+)\s*([kmgt]?)(i?)(b?)", re.IGNORECASE)


def parse(text: str, option: str = "--rank") -> RankRule:
    """ "full", "auto", "32" or "energy:0.99"."""
    if text in ("full", "auto"):
        return RankRule(text)  # type: ignore[arg-type]
    kind, colon, share = text.partition(":")
    if kind == "energy" and colon:
        return RankRule("energy", parse_share(share, f"{option} {text}"))
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise UsageError(f"{option} {text}: expected a number from 1, full, auto or energy:SHARE, such as energy:0.99")
    return RankRule("fixed", int(text))


def parse_share(text: str, what: str) -> float:
    """A share above 0 and up to 1; `what` begins the error."""
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise UsageError(f"{what}: expected a share of the squared norm above 0 and at most 1, such as 0.99")
    return share


def parse_size(text: str, option: str = "--budget") -> int:
    """Bytes in "50MB", "1.5GiB", "800k" or "1000000"; k, M and G count by 1000, Ki, Mi and Gi by 1024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or (match[3] and not match[2]):
        raise UsageError(f"{option} {text}: expected a size such as 50MB, 1.5GiB or 800k")
    power = " kmgt".index(match[2].lower() or " ")
    size = int(float(match[1]) * (1024 if match[3] else 1000) ** power)
    if size < 1:
        raise UsageError(f"{option} {text}: expected a size above 0")
    return size


def rule(rank: str, max_rank: int | None = None, budget: str | None = None) -> RankRule:
    """The three options as one rule; a budget takes the place of a rank, so both is an error."""
    found = parse(rank)
    if budget is not None:
        if found.kind != "full":
            raise UsageError(
                f"--budget spreads the ranks by itself: leave --rank {rank} out, or cap them by --max-rank"
            )
        found = RankRule("budget", parse_size(budget))
    return found if max_rank is None else replace(found, cap=max_rank)
