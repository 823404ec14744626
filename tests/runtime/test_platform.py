import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from lorakit.runtime import platform


@pytest.fixture(params=["positional", "seeking"])
def way(request, monkeypatch):
    """With os.preadv and os.pwrite, and as on Windows without."""
    if request.param == "seeking":
        lacking = {name: getattr(os, name) for name in dir(os) if name not in ("preadv", "pwrite", "__name__")}
        monkeypatch.setattr(platform, "os", SimpleNamespace(**lacking))


def test_threads_read_and_write_one_descriptor_at_places_of_their_own(tmp_path, way):
    fd = os.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    blocks = [bytes([i]) * 4096 for i in range(64)]

    def there_and_back(i: int) -> bytes:
        assert platform.write_at(fd, memoryview(blocks[i]), i * 4096) == 4096
        data = bytearray(5000)
        count = platform.read_at(fd, memoryview(data)[:4096], i * 4096)
        return bytes(data[:count])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(there_and_back, range(64))) == blocks
    assert platform.read_at(fd, memoryview(bytearray(10)), 64 * 4096 - 3) == 3
    assert platform.read_at(fd, memoryview(bytearray(10)), 64 * 4096) == 0
    os.close(fd)


def test_what_is_added_tells_where_it_begins_though_others_add_and_read(tmp_path, way):
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    ours, theirs = (os.open(tmp_path / "a", flags) for _ in range(2))
    assert platform.append(ours, b"one") == 0
    assert platform.append(theirs, b"three") == 3
    platform.read_at(ours, memoryview(bytearray(2)), 0)
    assert platform.append(ours, b"five") == 8
    assert (tmp_path / "a").read_bytes() == b"onethreefive"
    os.close(ours)
    os.close(theirs)


def test_the_peak_of_memory_is_in_bytes():
    code = "from lorakit.runtime.platform import peak_memory as p; a = p(); b = bytearray(200 << 20); print(a, p() - a)"
    # Linux counts the peak of the process that has started this one too, so let it be a small one.
    starter = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    before, more = map(int, subprocess.check_output([sys.executable, "-c", starter, code]).split())
    assert 1 << 20 < before < 1 << 30 and 150 << 20 < more < 250 << 20


def test_a_process_is_alive_until_it_has_ended_and_is_not_harmed_by_the_question():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert platform.alive(process.pid) and platform.alive(os.getpid())
    process.communicate(b"\n")
    assert process.returncode == 0 and not platform.alive(process.pid)


def test_a_number_that_no_process_can_have_is_left_alone():
    assert platform.alive(10**30)


def test_files_and_folders_are_synced(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    platform.sync_file(tmp_path / "a")
    platform.sync_folder(tmp_path)


def test_help_waits_for_no_library_of_processes_or_locks():
    code = "import sys, lorakit.cli; print(*{'psutil', 'filelock', 'fcntl', 'resource', 'shlex'} & set(sys.modules))"
    assert not set(subprocess.check_output([sys.executable, "-c", code], text=True).split()) & {"psutil", "filelock"}
