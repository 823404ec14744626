"""Killed at any moment, the same command ends in the same bytes; by hand with hundreds: `python -m tests.kills 300`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.posix
@pytest.mark.slow
def test_twenty_kills_at_random_moments(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.kills", "20", "--steps", "8", "--batch-size", "2", "--checkpoint-every", "2"],
        cwd=Path(__file__).parents[2], env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "all ended in the same bytes" in done.stdout
