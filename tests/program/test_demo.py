import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorakit.io.record import stranger_in
from lorakit.jobs import demo
from tests.contracts.test_folders import tree

TOUR = ["demo", "out", "--steps", "2"]


@pytest.mark.slow
def test_the_tour_ends_in_a_page(program, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(demo, "_CLASS", 1)
    monkeypatch.setattr(demo, "_STEPS", 1)
    dry = program("demo", "out", "--steps", "2", "--json", "--dry-run")
    assert not (tmp_path / "out").exists()
    done = program("demo", "out", "--steps", "2", "--json")
    assert json.loads(dry.stdout).keys() == json.loads(done.stdout).keys()
    page = (tmp_path / "out" / "index.html").read_text()
    assert json.loads(done.stdout)["outputs"] == ["out/index.html"]
    assert page.count("<img") >= 20 and "both adapters" in page
    program("demo", "out", status=4)
    for name in ("novel.txt", "fox/data/novel.txt", "fox/run/checkpoints/novel.txt", "merged/novel.txt"):
        (tmp_path / "out" / name).write_text("chapter one")
        before = tree(tmp_path)
        assert f"out holds {name}" in program("demo", "out", "--force", status=4).stderr and tree(tmp_path) == before
        (tmp_path / "out" / name).unlink()
    assert stranger_in(tmp_path / "out", demo._known) is None


def _killed(folder: Path, moment: str) -> None:
    """The tour, killed when a file appears."""
    process = subprocess.Popen([sys.executable, "-m", "lorakit", *TOUR], cwd=folder, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not list((folder / "out").glob(moment)):
        assert process.poll() is None and time.monotonic() < deadline, moment
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


MOMENTS = (
    "fox/raw/*",
    "fox/data/.manifest.journal",
    "fox/data/*.txt",
    "fox/run/log.jsonl",
    "fox/lora.safetensors",
    "fox/before/00002.png",
    "strawberry/run/cache/*",
    "merged.safetensors",
    "merged/00000.png",
)


@pytest.mark.thorough
def test_a_tour_that_is_killed_again_and_again_goes_on_with_the_same_command(program, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for moment in MOMENTS:
        _killed(tmp_path, moment)
        assert stranger_in(tmp_path / "out", demo._known) is None, moment
    program(*TOUR)
    program("demo", "whole", *TOUR[2:])
    for name in ("fox/lora.safetensors", "strawberry/lora.safetensors", "merged.safetensors", "index.html"):
        digests = {hashlib.sha256((tmp_path / home / name).read_bytes()).digest() for home in ("out", "whole")}
        assert len(digests) == 1, name
    ours = {name for name in tree(tmp_path / "out") if not os.path.basename(name).startswith(".")}
    assert ours == {name for name in tree(tmp_path / "whole") if not os.path.basename(name).startswith(".")}
