"""Two processes over Gloo on this machine do what one does with twice the batch."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorakit.deltas._base import relative_error
from lorakit.formats import files
from tests.conftest import captioned

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five pictures of two shapes: batches are uneven, and some leave a process with nothing to do."""
    return captioned(tmp_path / "data", "a photo of thing", [(64, 64)] * 3 + [(96, 64)] * 2)


def start(folder: Path, count: int, *arguments: object) -> list[subprocess.Popen]:
    """The program in so many processes, told of one another as `torchrun` tells them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    found = []
    for rank in range(count):
        env = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        found.append(
            subprocess.Popen(
                [sys.executable, "-m", "lorakit", "train", *map(str, arguments), "--json"],
                cwd=folder,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return found


def finish(processes: list[subprocess.Popen], status: int = 0) -> list[str]:
    said = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == status, err
        said.append(out)
    return said


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_two_processes_give_the_losses_of_one_with_twice_the_batch(data, tmp_path):
    options = [data, "--steps", 5, "--warmup", 0, "--accumulate", 2]
    both = start(tmp_path, 2, *options, "--batch-size", 1, "-o", "two.safetensors")
    said = finish(both)
    finish(start(tmp_path, 1, *options, "--batch-size", 2, "-o", "one.safetensors"))
    assert json.loads(said[0])["steps"] == 5 and said[1] == ""  # one of them speaks
    assert losses(tmp_path / "two.run") == pytest.approx(losses(tmp_path / "one.run"), rel=1e-5)
    one, two = (files.read(tmp_path / f"{name}.safetensors").modules for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert max(relative_error(one[name], two[name]) for name in one) < 1e-3


@pytest.mark.thorough
def test_a_signal_to_one_stops_both_at_one_step_and_both_go_on(data, tmp_path):
    options = [data, "--steps", 12, "--batch-size", 1, "--checkpoint-every", 50, "-o", "x.safetensors"]
    both = start(tmp_path, 2, *options)
    log, deadline = tmp_path / "x.run/log.jsonl", time.monotonic() + 120
    while not (log.exists() and log.stat().st_size):
        assert time.monotonic() < deadline and both[0].poll() is None
        time.sleep(0.05)
    both[1].send_signal(signal.SIGTERM)
    finish(both, 143)
    (saved,) = (tmp_path / "x.run/checkpoints").iterdir()
    said = finish(start(tmp_path, 2, *options))
    assert json.loads(said[0])["resumed_from"].endswith(saved.name) and len(losses(tmp_path / "x.run")) == 12
