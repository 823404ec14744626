"""Killed at any moment, the same command ends in the same bytes; by hand with hundreds: `python -m tests.kills 300`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import make


@pytest.mark.posix
@pytest.mark.slow
def test_kills_at_random_moments(tmp_path):
    options = ["--model", make(tmp_path / "base"), "--steps", 6, "--batch-size", 2, "--checkpoint-every", 2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.kills", "10", *map(str, options)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "all ended in the same bytes" in done.stdout
