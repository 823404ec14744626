"""What stands on stderr while a command works."""

import io
import re
import sys

import pytest

from lorakit.cli import output

FIGURES = {"loss": "0.1043", "lr": "0.0019", "samples/s": "73.1", "grad": "0.21", "memory": "512 MB"}


@pytest.mark.parametrize(("width", "shown"), [(50, 0), (80, 2), (160, 5)])
def test_a_bar_has_as_many_figures_as_there_is_room_for(width, shown, monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stderr)
    for name, value in {"COLUMNS": str(width), "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    with output.progress("training") as talk:
        talk.show(FIGURES)
        talk.tick(120, 300)
    last = [line for line in re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", stderr.getvalue()).splitlines() if line][-1]
    assert len(last.rstrip()) <= width and "120/300" in last
    assert [f"{name} {value}" in last for name, value in FIGURES.items()] == [i < shown for i in range(5)]


def test_where_there_is_no_terminal_a_line_comes_every_ten_seconds(monkeypatch, capsys):
    now = iter([0.0, 1.0, 5.0, 12.0, 13.0, 30.0])  # of the first, the call itself
    monkeypatch.setattr(output.time, "monotonic", lambda: next(now))
    with output.progress("training") as talk:
        talk.show({"loss": "0.1", "lr": "0.002"})
        for done in (1, 5, 12, 13, 30):
            talk.tick(done, 100)
    assert capsys.readouterr().err.splitlines() == [
        "training 12/100, 88 s left, loss 0.1, lr 0.002",
        "training 30/100, 70 s left, loss 0.1, lr 0.002",
    ]


def test_the_time_left_is_told_from_the_work_at_hand(monkeypatch, capsys):
    """Class pictures are drawn first, under the same progress: their time says nothing of the steps after them."""
    now = iter([0.0, 1.0, 100.0, 101.0, 120.0, 200.0, 201.0, 220.0])
    monkeypatch.setattr(output.time, "monotonic", lambda: next(now))
    with output.progress("demo") as talk:
        for done, total in ((1, 24), (24, 24), (1, 400), (20, 400), (400, 400), (1, 400), (20, 400)):
            talk.tick(done, total)
    assert capsys.readouterr().err.splitlines() == ["demo 20/400, 380 s left", "demo 20/400, 380 s left"]


def said(capsys, text):
    output.error(text)
    return capsys.readouterr().err.splitlines()


def test_an_error_has_at_most_four_lines_and_counts_the_others(capsys):
    assert said(capsys, "a\nb\nc\nd") == ["lorakit: a", "b", "c", "d"]
    assert said(capsys, "\n".join("abcdefg")) == ["lorakit: a", "b", "c", "and 4 more"]


def test_a_long_line_keeps_its_beginning_and_its_end(capsys):
    words = " ".join(f"word-{i}" for i in range(10_000))
    (line,) = said(capsys, f"file.safetensors: {words}; try another")
    assert line.startswith("lorakit: file.safetensors: word-0 word-1 ") and line.endswith("; try another")
    assert len(line) <= 500 + len("lorakit: ") and " … " in line
    assert set(line.split()) <= {"lorakit:", "file.safetensors:", "…", "try", "another", *words.split(), "word-9999;"}


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "\x1b" * 100_000, "é " * 100_000, "\n" * 100_000 + "end", " " * 100_000]
)
def test_no_text_makes_a_long_error(capsys, text):
    assert len(capsys.readouterr().err) == 0
    assert sum(map(len, said(capsys, f"a: {text}"))) <= 4 * 520


def test_a_note_is_bounded_too(capsys):
    output.note("a" * 10_000)
    assert len(capsys.readouterr().err) <= 501


@pytest.mark.parametrize("columns", ["0", "1", "x", "-5", ""])
def test_a_bar_stands_whatever_columns_says(columns, monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stderr)
    for name, value in {"COLUMNS": columns, "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    with output.progress("training") as talk:
        talk.show(FIGURES)
        talk.tick(1, 2)
    assert "training" in stderr.getvalue()


def test_a_dumb_terminal_gets_lines(monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "dumb")
    with output.progress("training") as talk:
        talk.tick(1, 2)
    assert "\x1b" not in stderr.getvalue() and talk.reached() == "1 of 2"
