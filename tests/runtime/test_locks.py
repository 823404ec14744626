import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorakit.errors import RefusedError, StorageError
from lorakit.runtime import platform
from lorakit.runtime.locks import forget, held, is_lock

_HOLDS = """
import sys, time
from pathlib import Path
from lorakit.runtime import platform
from lorakit.runtime.locks import held
if sys.argv[2] == "no locks":
    platform.lock = lambda fd, wait: False
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["locks", "no locks"])
def disk(request, monkeypatch):
    """A disk with locks, and one without."""
    if request.param == "no locks":
        monkeypatch.setattr(platform, "lock", lambda fd, wait: False)
    return request.param


@pytest.fixture
def other(disk):
    """Start another process that holds a folder."""
    started = []

    def hold(folder: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", _HOLDS, folder, disk], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()


def test_a_second_run_is_told_who_holds_the_folder(tmp_path, other):
    process = other(tmp_path / "run")
    with (
        pytest.raises(RefusedError, match=rf"at work in .*run \(process {process.pid} on .+, since \d{{4}}-"),
        held(tmp_path / "run"),
    ):
        pass


def test_a_killed_run_holds_nothing(tmp_path, other):
    process = other(tmp_path)
    process.kill()
    process.wait()
    with held(tmp_path):
        assert f'"pid": {os.getpid()}' in (tmp_path / ".lock").read_text(encoding="utf-8")
    assert os.listdir(tmp_path) == [".lock"] and (tmp_path / ".lock").read_bytes() == b""


def test_who_waits_goes_on_when_the_other_is_gone(tmp_path, other):
    process = other(tmp_path)
    begun = time.monotonic()
    subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(1); os.kill({process.pid}, 9)"])
    import threading

    threading.Thread(target=process.wait, daemon=True).start()
    with held(tmp_path, wait=True):
        assert 0.5 < time.monotonic() - begun < 30


def test_a_file_of_the_users_keeps_its_content(tmp_path, disk):
    (tmp_path / ".lock").write_bytes(b"mine")
    with held(tmp_path):
        assert (tmp_path / ".lock").read_bytes() == b"mine"
    forget(tmp_path, ".lock")
    assert (tmp_path / ".lock").read_bytes() == b"mine"


@pytest.mark.posix
def test_a_link_is_no_lock_file_and_leads_nowhere(tmp_path, disk):
    (tmp_path / "novel.txt").write_bytes(b"mine")
    (tmp_path / ".lock").symlink_to("novel.txt")
    with pytest.raises(StorageError, match=r"\.lock cannot be written"), held(tmp_path):
        pass
    assert (tmp_path / "novel.txt").read_bytes() == b"mine"


def test_a_folder_or_a_pipe_is_no_lock_file(tmp_path, disk):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(StorageError), held(tmp_path):
        pass


def test_what_stands_in_a_lock_file_of_others_cannot_break_the_message(tmp_path, other):
    other(tmp_path)
    for text in ("[1]", "{}", json.dumps({"pid": [1], "host": None, "since": "\x1b[2J"}), "[" * 500, "\xff"):
        (tmp_path / ".lock").write_bytes(text.encode("latin-1"))
        with pytest.raises(RefusedError, match="another lorakit run"), held(tmp_path):
            pass


def test_another_machines_marker_is_left_and_told(tmp_path, disk):
    if disk == "locks":
        pytest.skip("the kernel tells")
    marker = tmp_path / ".lock.lorakit"
    marker.write_bytes(b"1\nanother-machine\n")
    with pytest.raises(RefusedError, match=rf"delete {marker}"), held(tmp_path):
        pass
    assert marker.read_bytes() == b"1\nanother-machine\n"


@pytest.mark.posix
@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL])
def test_a_disk_that_refuses_to_lock_is_not_another_run(tmp_path, monkeypatch, number):
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with held(tmp_path), pytest.raises(RefusedError, match="no locks"), held(tmp_path):
        pass
    with held(tmp_path):
        pass


@pytest.mark.posix
def test_another_fault_of_the_disk_is_told_as_what_it_is(tmp_path, monkeypatch):
    import fcntl

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(StorageError, match="Input/output error"), held(tmp_path):
        pass


def test_a_lock_file_is_told_from_a_file_of_the_users(tmp_path, other):
    process = other(tmp_path)
    assert all(is_lock(path) for path in tmp_path.iterdir())
    process.kill()
    process.wait()
    assert all(is_lock(path) for path in tmp_path.iterdir())  # as it is left
    for name, data in ((".lock.3", b""), (".lock.txt", b"x"), (".lock.4", b"mine"), ("lock", b"")):
        (tmp_path / name).write_bytes(data)
    assert [is_lock(tmp_path / name) for name in (".lock.3", ".lock.txt", ".lock.4", "lock", "none")] == [True] + [
        False
    ] * 4
