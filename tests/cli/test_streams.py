"""The standard streams: closed, full, without a reader, in a locale that knows ASCII alone."""

import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from lorakit.cli import app, streams
from lorakit.errors import StorageError
from lorakit.formats import writing
from tests.conftest import captioned
from tests.support.adapter_files import random_adapter

FULL = Path("/dev/full")
MERGE = ("merge", "a.safetensors", "b.safetensors", "-o", "m.safetensors")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    for i, name in enumerate("ab"):
        adapter = random_adapter("sd1", lambda n: ".mid_block." in n and ".attn2." in n, seed=i)
        writing.save(tmp_path / f"{name}.safetensors", adapter, "kohya")
    return tmp_path


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """The program with what a shell does to its streams: `shell("inspect", "a", tail="2>&-")`."""

    def run(*arguments: str, tail: str = "", env: dict[str, str] | None = None) -> Any:
        line = f"{shlex.join([sys.executable, '-m', 'lorakit', *arguments])} {tail}"
        return subprocess.run(
            ["sh", "-c", line], cwd=tmp_path, capture_output=True, env={**os.environ, **(env or {})}, timeout=300
        )

    return run


@pytest.mark.parametrize("tail", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_work_is_done_whatever_the_streams_are_tied_to(shell, two, tail):
    if "full" in tail and not FULL.exists():
        pytest.skip("no /dev/full")
    done = shell(*MERGE, tail=tail)
    assert done.returncode == 0 and (two / "m.safetensors").is_file()


def _unread() -> int:
    """The end to write to of a pipe that nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize("arguments", [("inspect", "a.safetensors"), ("inspect", "a.safetensors", "--json"), MERGE])
@pytest.mark.parametrize("gone", ["stdout", "stderr"])
def test_a_reader_that_has_gone_has_had_what_it_wanted(two, arguments, gone):
    pipe = _unread()
    other = "stderr" if gone == "stdout" else "stdout"
    command = [sys.executable, "-m", "lorakit", *arguments]
    done = subprocess.run(command, cwd=two, **{gone: pipe, other: subprocess.PIPE}, timeout=300)  # type: ignore[call-overload]
    os.close(pipe)
    assert done.returncode == 0
    assert gone == "stderr" or b"roken" not in done.stderr


@pytest.mark.parametrize("name", [None, *get_command(app).commands])  # type: ignore[attr-defined]
def test_the_help_of_every_command_may_be_cut_off(name, tmp_path):
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "lorakit", *filter(None, [name]), "--help"], stdout=write, stderr=subprocess.PIPE
    ) as process:
        os.close(write)
        os.read(read, 1)  # as `head -c 1` does
        os.close(read)
        assert process.stderr is not None and process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [("--help",), ("inspect", "a.safetensors"), ("train", "--print-config"), MERGE])
def test_results_that_a_disk_has_no_room_for_are_an_error(shell, two, arguments):
    done = shell(*arguments, tail="> /dev/full")
    assert done.returncode == 5 and b"standard output cannot be written" in done.stderr
    assert (two / "m.safetensors").is_file() == (arguments == MERGE)


class _Full(io.RawIOBase):
    """A pipe that takes a byte now and then, or a disk."""

    def __init__(self, answers: list[int | OSError | None]) -> None:
        self.answers, self.taken = answers, b""

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        if answer is not None:
            self.taken += bytes(data[:answer])
        return answer


def test_a_pipe_that_does_not_wait_is_waited_for():
    inner = _Full([None, 1, None, 2])
    with io.BufferedWriter(streams._Lasting(inner, True)) as buffer:
        buffer.write(b"abc")
        buffer.flush()
    assert inner.taken == b"abc"


def test_a_full_disk_is_told_once():
    lasting = streams._Lasting(_Full([OSError(28, "No space left on device")]), True)
    with pytest.raises(StorageError, match="No space left"):
        lasting.write(b"a")
    assert lasting.write(b"bc") == 2
    assert streams._Lasting(_Full([OSError(28, "No space left on device")]), False).write(b"ab") == 2


def test_windows_calls_a_pipe_that_nobody_reads_an_invalid_argument(tmp_path):
    reads, writes = os.pipe()
    with open(tmp_path / "file", "wb") as file:
        for fd, gone in ((writes, True), (file.fileno(), False)):
            inner = _Full([OSError(22, "Invalid argument")])
            inner.fileno = lambda fd=fd: fd  # type: ignore[method-assign]
            with nullcontext() if gone else pytest.raises(StorageError, match="Invalid argument"):
                assert streams._Lasting(inner, True).write(b"ab") == 2
    os.close(reads)
    os.close(writes)


NAMES = {"umlaut": "ä☃.safetensors".encode(), "latin-1": b"\xe4.safetensors"}
LOCALES = {
    "C": {"LC_ALL": "C"},
    "POSIX": {"LC_ALL": "POSIX", "LANG": ""},
    "LANG": {"LC_ALL": "", "LANG": "C"},
    "no UTF-8": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ASCII": {"PYTHONIOENCODING": "ascii"},
}


def test_prompts_that_are_no_text_are_told_with_their_line(program, tmp_path, monkeypatch):
    lines = io.TextIOWrapper(
        io.BytesIO(b'\xef\xbb\xbfa caf\xe9\n{"prompt": "\\ud83d"}\n'), "utf-8-sig", "surrogateescape"
    )
    monkeypatch.setattr("sys.stdin", lines)
    rows = [json.loads(row) for row in program("sample", "--prompts", "-", "-o", "out", status=2).stdout.splitlines()]
    assert [row["line"] for row in rows] == [1, 2] and "'a caf\\xe9' is not UTF-8" in rows[0]["error"]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "nothing came" in program("sample", "--prompts", "-", "-o", "out", status=3).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "data", "--instance-prompt"),
        ("train", "data", "--mode", "ti", "--token"),
        ("ppim", "data", "out", "--token"),
        ("prior-gen", "a cat", "out", "--class-word"),
        ("prior-gen", "--prompts", "no", "out", "--negative"),
        ("demo", "out", "--word"),
        ("compose", "a.safetensors", "--instance-prompt"),
        ("sample",),
    ],
    ids=" ".join,
)
def test_a_word_that_is_no_text_is_a_wrong_option(program, tmp_path, arguments):
    (tmp_path / "no").write_text("a cat")
    captioned(tmp_path / "data", "a cat")
    assert "UTF-8" in program(*arguments, os.fsdecode(b"caf\xe9"), status=2).stderr


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are text")
@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("name", NAMES)
def test_a_path_on_stdout_is_its_very_bytes_in_every_locale(shell, two, name, locale):
    source, target = os.fsdecode(NAMES[name]), os.fsdecode(b"m" + NAMES[name])
    (two / "a.safetensors").rename(two / source)
    done = shell("merge", source, "b.safetensors", "-o", target, env=LOCALES[locale])
    assert (done.returncode, done.stdout) == (0, b"m" + NAMES[name] + b"\n"), done.stderr
    assert b"m" + NAMES[name] in os.listdir(os.fsencode(two))


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are text")
def test_json_is_utf8_whatever_a_file_is_called(shell, two):
    (two / "a.safetensors").rename(two / os.fsdecode(NAMES["latin-1"]))
    done = shell("inspect", os.fsdecode(NAMES["latin-1"]), "--json")
    assert json.loads(done.stdout.decode())["files"][0]["file"] == "\\xe4.safetensors"


def test_a_working_folder_that_is_gone_is_named(tmp_path):
    line = f"mkdir gone && cd gone && rmdir ../gone && {shlex.join([sys.executable, '-m', 'lorakit', 'inspect', 'a'])}"
    home = str(Path(streams.__file__).parents[2])
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": home}
    )
    assert done.returncode == 3 and "the folder that lorakit was started in is gone" in done.stderr


def test_a_run_that_nobody_listens_to_any_more_finishes_its_files(start, tmp_path):
    captioned(tmp_path / "data", "a cat")
    pipe = _unread()
    done = start("train", "data", "--steps", 2, "--batch-size", 1, stdout=pipe, stderr=pipe)
    os.close(pipe)
    assert done.wait() == 0 and (tmp_path / "lora.safetensors").is_file()
    assert len((tmp_path / "lora.run" / "log.jsonl").read_text().splitlines()) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems answer otherwise")
def test_a_terminal_that_was_closed_is_a_reader_that_has_gone(two):
    ours, theirs = os.openpty()
    os.close(ours)
    done = subprocess.run([sys.executable, "-m", "lorakit", *MERGE], cwd=two, stdout=theirs, stderr=theirs, timeout=300)
    os.close(theirs)
    assert done.returncode == 0 and (two / "m.safetensors").is_file()


@pytest.mark.parametrize("columns", ["0", "1", "x"])
def test_help_stands_whatever_columns_says(program, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert "--output" in program("merge", "--help").stdout
