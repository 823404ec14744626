"""What the program says: results on stdout, everything else on stderr. The one module that prints."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lorakit import __version__
from lorakit.cli.manner import Manner
from lorakit.naming import shown as readable
from lorakit.naming import spelled
from lorakit.runtime.world import speaks
from lorakit.talk import Talk


class _OutputState:
    command = ""
    manner = Manner()
    started = 0.0


def begin(command: str, manner: Manner) -> None:
    _OutputState.command, _OutputState.manner, _OutputState.started = command, manner, time.monotonic()


def running() -> str:
    """The name of the command that is at work; "" before one is."""
    return _OutputState.command


def shown(text: str) -> str:
    """Text from a file or user as data: control characters escaped, never taken for terminal codes."""
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in readable(text))


_LONGEST = 500  # characters of a line for people
_LINES = 4


def bounded(text: str) -> str:
    """Text for people on one line: shown, and of a long one the beginning, where the file is named, and the end, where it
    says what to do. It is cut between words where there are any."""
    line = shown(text if len(text) <= 4 * _LONGEST else f"{text[: 2 * _LONGEST]}\n{text[-2 * _LONGEST :]}")
    if len(line) <= _LONGEST:
        return line
    head, tail = line[: _LONGEST * 3 // 5], line[-_LONGEST * 2 // 5 + 3 :]
    first, last = head.rfind(" "), tail.find(" ")
    head = head[:first] if first > len(head) // 2 else head
    tail = tail[last + 1 :] if -1 < last < len(tail) // 2 else tail
    return f"{head} … {tail}"


def note(text: str) -> None:
    """A line for people on stderr."""
    if not _OutputState.manner.quiet:
        print(bounded(text), file=sys.stderr, flush=True)


def error(text: str) -> None:
    if not speaks():
        return
    lines = text.strip().splitlines()
    if len(lines) > _LINES:
        lines[_LINES - 1 :] = [f"and {len(lines) - _LINES + 1} more"]
    print("lorakit: " + "\n".join(map(bounded, lines)), file=sys.stderr, flush=True)


def emit(result: Mapping[str, Any]) -> None:
    """The result: with --json one object, else the path of each thing written, one a line."""
    if _OutputState.manner.json_output:
        seconds = round(time.monotonic() - _OutputState.started, 3)
        whole = {"command": _OutputState.command, "version": __version__, "seconds": seconds, **result}
        print(json.dumps(spelled(whole), default=str), flush=True)
        return
    for path in result.get("outputs", ()):
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(path) + os.linesep.encode())  # its very bytes, whatever the encoding
        sys.stdout.buffer.flush()


def line(result: Mapping[str, Any]) -> None:
    """One JSON object on a line of its own, at once: for those who read as results come."""
    text = json.dumps(spelled(result), ensure_ascii=False, default=str)
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode() + b"\n")  # JSON is UTF-8, whatever the encoding
    sys.stdout.buffer.flush()


def shower() -> Callable[[Any], None] | None:
    """Shows a picture [h, w, 3] on stderr, two pixels a character; None where stderr is no terminal of 24-bit colour."""
    if (
        _OutputState.manner.quiet
        or not sys.stderr.isatty()
        or "NO_COLOR" in os.environ
        or os.environ.get("TERM") == "dumb"
    ):
        return None

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


class Progress:
    """tick(done, total), and `show(figures)`, what is to stand beside it from then on, the most wanted first. This one
    says nothing. `reached` is how far it is, "14 of 50"."""

    reached = "0"

    def __call__(self, done: int, total: int) -> None:
        self.reached = f"{done} of {total}"

    def show(self, figures: Mapping[str, str]) -> None: ...


@contextmanager
def progress(label: str) -> Iterator[Talk]:
    """A bar with ETA and as many figures as there is room for on a terminal, a line every ten seconds elsewhere."""
    if _OutputState.manner.quiet:
        yield _talk(Progress())
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _Bar(label) as bar:
            yield _talk(bar)
    else:
        yield _talk(_Lines(label))


def _talk(progress: Progress) -> Talk:
    return Talk(note=note, tick=progress, show=progress.show, reached=lambda: progress.reached)


class _Bar(Progress):
    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Rich

        width = max(20, shutil.get_terminal_size().columns)  # COLUMNS may say anything
        console = Console(stderr=True, width=width, no_color="NO_COLOR" in os.environ or None)
        bar = max(8, min(40, console.width // 4))
        self._label, self._room = label, console.width - len(label) - bar - len("  /   0:00:00  ")
        self._rich = Rich(
            TextColumn("{task.description}"),
            BarColumn(bar),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[beside]}", markup=False),
            console=console,
        )
        self._task = self._rich.add_task(label, total=None, beside="")
        self._figures: Mapping[str, str] = {}

    def __enter__(self) -> "_Bar":
        self._rich.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._rich.stop()

    def show(self, figures: Mapping[str, str]) -> None:
        self._figures = figures

    def __call__(self, done: int, total: int) -> None:
        super().__call__(done, total)
        beside, room = "", self._room - 2 * len(str(total))
        for name, value in self._figures.items():
            longer = f"{beside}  {name} {value}".lstrip()
            if len(longer) > room:
                break
            beside = longer
        self._rich.update(self._task, completed=done, total=total, beside=beside)


class _Lines(Progress):
    def __init__(self, label: str) -> None:
        self._label, self._last = label, time.monotonic()
        self._begun, self._at = (0.0, 0), (0, 0)
        self._figures: Mapping[str, str] = {}

    def show(self, figures: Mapping[str, str]) -> None:
        self._figures = figures

    def __call__(self, done: int, total: int) -> None:
        super().__call__(done, total)
        now = time.monotonic()
        before, of = self._at
        if total != of or done < before:  # what came before the first piece is start-up, or other work: no rate
            self._begun = now, done
        self._at = done, total
        since, first = self._begun
        if now - self._last >= 10 and first < done < total:
            self._last = now
            left = (now - since) / (done - first) * (total - done)
            told = "".join(f", {name} {value}" for name, value in self._figures.items())
            print(f"{self._label} {done}/{total}, {left:.0f} s left{told}", file=sys.stderr, flush=True)
