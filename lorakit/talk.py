"""What a job tells the user while it works: notes, and how far it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Note = Callable[[str], None]  # one line for the user
Tick = Callable[[int, int], None]  # so many of so many are done


def silent(text: str) -> None:
    """A note that nobody hears."""


@dataclass(frozen=True, kw_only=True)
class Talk:
    """The ways in which a job reaches the user.

    show     figures that stand beside the progress from then on, the most wanted first
    reached  how far the progress is, "14 of 50"
    """

    note: Note = silent
    tick: Tick = lambda done, total: None
    show: Callable[[Mapping[str, str]], None] = lambda figures: None
    reached: Callable[[], str] = lambda: "0"


SILENT = Talk()
