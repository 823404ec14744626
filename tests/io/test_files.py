"""Outputs whole or not at all, beside other processes and after kills."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from lorakit.errors import RefusedError, StorageError, UsageError
from lorakit.io import files
from lorakit.io.endings import ADAPTER, MERGED_MODEL
from lorakit.io.record import RECORD, stranger_in
from lorakit.runtime import platform


def tree(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder: content, or where a link leads."""
    return {
        path.relative_to(folder).as_posix(): f"-> {path.readlink()}" if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def write_folder(target: Path, content: dict[str, str], note=lambda text: None) -> None:
    with files.replacing_folder(target, note) as partial:
        for name, text in content.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(text)


@pytest.fixture(params=["exchanged", "moved aside"])
def way(request, monkeypatch):
    """Folders that change places at once, and a file system that cannot do that."""
    if request.param == "moved aside":
        monkeypatch.setattr(platform, "_rename_with", lambda *_: False)
    return request.param


@pytest.mark.parametrize("length", [100, 235, 240, 255])
def test_names_of_up_to_255_bytes_are_written(tmp_path, length):
    target = tmp_path / ("ä" * (length // 2) + "x" * (length % 2))
    assert len(os.fsencode(target.name)) == length
    for text in ("one", "two"):
        files.write_text(target, text)
    assert [path.name for path in tmp_path.iterdir()] == [target.name] and target.read_text() == "two"
    write_folder(tmp_path / ("f" * length), {"a": "1"})
    write_folder(tmp_path / ("f" * length), {"a": "2"})
    assert len(os.listdir(tmp_path)) == 2


def test_a_name_that_is_too_long_is_told_before_any_work(tmp_path):
    with pytest.raises(StorageError, match="name too long"):
        files.check_target(tmp_path / f"{'x' * 250}.safetensors", ADAPTER, force=False)


def test_what_appears_where_nothing_was_stays(tmp_path, way):
    target = tmp_path / "a.safetensors"
    files.check_target(target, ADAPTER, force=False)
    target.write_text("another's")
    with pytest.raises(RefusedError, match=r"a\.safetensors was written by another"):
        files.write_text(target, "ours")
    assert tree(tmp_path) == {"a.safetensors": b"another's"}
    files.check_target(target, ADAPTER, force=True)
    files.write_text(target, "ours")
    assert target.read_text() == "ours"


def test_of_many_that_write_one_new_file_one_succeeds(tmp_path, way):
    done, ready = [], threading.Barrier(8)

    def write(number: int) -> None:
        with files.replacing(tmp_path / "a", new=True) as partial:
            partial.write_text(str(number))
            ready.wait()
        done.append(number)

    def tried(number: int) -> None:
        with suppress(files.NameTaken):
            write(number)

    threads = [threading.Thread(target=tried, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 1 and tree(tmp_path) == {"a": str(done[0]).encode()}


def test_two_outputs_under_one_name_are_refused(tmp_path):
    with pytest.raises(UsageError, match="two outputs"):
        files.check_targets(
            [(tmp_path / "a.safetensors", ADAPTER), (tmp_path / "b/../a.safetensors", ADAPTER)], force=True
        )


def test_a_folder_is_replaced_and_what_a_person_adds_meanwhile_is_kept(tmp_path, way):
    home, said = tmp_path / "model", []
    write_folder(home, {"a": "old", "sub/b": "old"})
    (tmp_path / "elsewhere").write_text("mine")
    with files.replacing_folder(home, said.append) as partial:
        (partial / "a").write_text("new")
        (home / "note.txt").write_text("mine")
        (home / "sub" / "note.txt").write_text("mine")
        (home / "link").symlink_to(tmp_path / "elsewhere")
    found = tree(home)
    del found[RECORD]
    assert found == {"a": b"new", "note.txt": b"mine", "sub/note.txt": b"mine", "link": f"-> {tmp_path / 'elsewhere'}"}
    assert len(said) == 3 and "note.txt" in said[1] and sorted(os.listdir(tmp_path)) == ["elsewhere", "model"]
    assert stranger_in(home) == "link"


def test_a_file_that_a_person_changes_meanwhile_stays_in_the_old_folder(tmp_path, way):
    home, said = tmp_path / "model", []
    write_folder(home, {"a": "old", "b": "old"})
    with files.replacing_folder(home, said.append) as partial:
        (partial / "a").write_text("new")
        (home / "a").write_text("changed")
    assert (home / "a").read_text() == "new" and "model.old" in said[0]
    assert tree(tmp_path / "model.old") == {"a": b"changed"}


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    home = tmp_path / "model"
    write_folder(home, {"a": "old"})
    before = tree(tmp_path)
    monkeypatch.setattr(platform, "_rename_with", lambda *_: False)
    rename, tried = os.rename, []

    def full(source, target):
        tried.append(target)
        if len(tried) == 3:  # the new one to the old one's place
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(StorageError, match="No space left"):
        write_folder(home, {"a": "new"})
    assert tree(tmp_path) == before


CODE = """
import os, signal, sys
from pathlib import Path
from lorakit.io import files
from lorakit.runtime import platform
moment, exchanges = int(sys.argv[2]), sys.argv[3] == "exchanged"
if not exchanges:
    platform._rename_with = lambda *_: False
calls = 0
def counted(function):
    def call(*args, **more):
        global calls
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **more)
    return call
for module, names in ((os, "rename replace unlink link mkdir rmdir open"), (files.shutil, "rmtree")):
    for name in names.split():
        setattr(module, name, counted(getattr(module, name)))
platform.exchange = counted(platform.exchange)
def write():
    with files.replacing_folder(Path(sys.argv[1])) as partial:
        (partial / "a").write_text("new")
        (partial / "sub").mkdir()
        (partial / "sub" / "b").write_text("new")
        (Path(sys.argv[1]) / "note.txt").write_text("mine")
write()
print("whole")
"""


def test_a_folder_killed_at_every_moment_is_the_old_or_the_new_one_and_the_next_run_sweeps_up(tmp_path, way):
    for moment in range(1, 100):
        home = tmp_path / str(moment) / "model"
        write_folder(home, {"a": "old", "c": "old"})
        command = [sys.executable, "-c", CODE, home, str(moment), way]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        if way == "exchanged" and platform._renamer():  # at every moment, without anybody's help
            assert home.is_dir() and (home / "a").read_text() in ("old", "new")
        files._left_over.cache_clear()
        with pytest.raises(RefusedError):
            files.check_target(home, MERGED_MODEL, force=False)
        note = home / "note.txt"
        assert (home / "a").read_text() in ("old", "new") and (not note.exists() or note.read_text() == "mine")
        written = note.exists()
        files._left_over.cache_clear()
        write_folder(home, {"a": "newest"})
        found = tree(home.parent)
        assert found["model/a"] == b"newest" and found.get("model/note.txt") == (b"mine" if written else None)
        assert set(found) <= {"model/a", "model/note.txt", f"model/{RECORD}"}
    assert moment > 8


@pytest.mark.posix
def test_a_temporary_file_that_another_container_is_writing_stays(tmp_path):
    """Its process number is of another namespace, and is nobody's here: what counts is that it is held."""
    code = (
        "import sys, time; from pathlib import Path; from lorakit.io import files\n"
        "files.os.getpid = lambda: 2147483646\n"
        "with files.replacing(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('theirs'); print('writing', flush=True); sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "a"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        files._left_over.cache_clear()
        files.write_text(tmp_path / "a", "ours")
        assert (tmp_path / "a").read_text() == "ours" and len(os.listdir(tmp_path)) == 2
        process.communicate("go on\n")
    assert process.returncode == 0 and tree(tmp_path) == {"a": b"theirs"}


def test_what_is_killed_leaves_no_unlisted_file_in_a_recorded_folder(tmp_path):
    code = (
        "import sys; from pathlib import Path; from lorakit.io import files; from lorakit.io.record import recorded\n"
        "home = Path(sys.argv[1])\n"
        "with recorded(home):\n"
        "    for number in range(100000):\n"
        "        files.write_text(home / f'{number % 50}.txt', str(number))\n"
    )
    for wait in (0.05, 0.1, 0.2, 0.35):
        process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "out"])
        while not (tmp_path / "out" / "1.txt").exists():
            assert process.poll() is None
        time.sleep(wait)
        process.kill()
        process.wait()
        assert stranger_in(tmp_path / "out") is None
