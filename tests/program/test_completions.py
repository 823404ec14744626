import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "completions"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_are_what_the_program_prints(shell):
    program = Path(sys.executable).with_name("lorakit")
    if not program.exists():
        pytest.skip("lorakit is not installed as a program")
    env = {**os.environ, "_LORAKIT_COMPLETE": f"source_{shell}"}
    done = subprocess.run([program], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == (FOLDER / f"lorakit.{shell}").read_text()
