"""What the program says: results on stdout, everything else on stderr. The one module that prints."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lorakit import __version__
from lorakit.cli.command import Manner
from lorakit.runtime.world import speaks


class _State:
    command = ""
    manner = Manner()
    started = 0.0


def begin(command: str, manner: Manner) -> None:
    _State.command, _State.manner, _State.started = command, manner, time.monotonic()


def shown(text: str) -> str:
    """Text from a file or user as data: control characters escaped, never taken for terminal codes."""
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)


def note(text: str) -> None:
    """A line for people on stderr."""
    if not _State.manner.quiet:
        print(shown(text), file=sys.stderr, flush=True)


def error(text: str) -> None:
    if not speaks():
        return
    lines = [shown(line) for line in text.strip().splitlines()][:4]
    print("lorakit: " + "\n".join(lines), file=sys.stderr, flush=True)


def emit(result: Mapping[str, Any]) -> None:
    """The result: with --json one object, else the path of each thing written, one a line."""
    if _State.manner.json_output:
        seconds = round(time.monotonic() - _State.started, 3)
        whole = {"command": _State.command, "version": __version__, "seconds": seconds, **result}
        print(json.dumps(whole, default=str), flush=True)
    else:
        for path in result.get("outputs", ()):
            print(path, flush=True)


def line(result: Mapping[str, Any]) -> None:
    """One JSON object on a line of its own, at once: for those who read as results come."""
    print(json.dumps(result, ensure_ascii=False, default=str), flush=True)


def shower() -> Callable[[Any], None] | None:
    """Shows a picture [h, w, 3] on stderr, two pixels a character; None where stderr is no terminal of 24-bit colour."""
    if _State.manner.quiet or not sys.stderr.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return None
    import shutil

    def show(picture: Any) -> None:
        from lorakit.reports.terminal import half_blocks

        columns, rows = shutil.get_terminal_size()
        print(half_blocks(picture, min(columns, 64), max(4, rows - 4)), file=sys.stderr, flush=True)

    return show


def report(lines: Iterable[str]) -> None:
    """Text that is a command's result, on stdout."""
    for line in lines:
        print(shown(line), flush=False)
    sys.stdout.flush()


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Gives `tick(done, total)`: a bar with rate and ETA on a terminal, a line every ten seconds elsewhere."""
    if _State.manner.quiet:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        yield from _bar(label)
    else:
        yield _lines(label)


def _bar(label: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, no_color="NO_COLOR" in os.environ or None)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(label: str) -> Callable[[int, int], None]:
    last = time.monotonic()
    begun: tuple[float, int] | None = None

    def tick(done: int, total: int) -> None:
        nonlocal last, begun
        now = time.monotonic()
        begun = begun or (now, done)  # what came before the first piece was done is start-up, and no rate
        if now - last >= 10 and begun[1] < done < total:
            last = now
            left = (now - begun[0]) / (done - begun[1]) * (total - done)
            print(f"{label} {done}/{total}, {left:.0f} s left", file=sys.stderr, flush=True)

    return tick
