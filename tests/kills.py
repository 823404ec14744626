"""A run that is killed again and again, at moments drawn at random, and must end in the bytes of an unbroken one.

By hand: `python -m tests.kills 300`. The parent imports everything and computes nothing, so that a forked child begins
at once and most kills fall inside the work, not inside imports.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# All that a run imports, before the fork.
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel  # noqa: F401
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

import lorakit.jobs.train  # noqa: F401
from lorakit.cli import _run
from tests.conftest import captioned


@dataclass
class Tally:
    kills: int = 0
    runs: int = 0
    by_step: list[int] | None = None


def child(arguments: Sequence[str]) -> int:
    """The program in a fork of this process; its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    with contextlib.suppress(BaseException):
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        log = os.open("kills.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 2)
        status = _run(list(arguments))
    os._exit(status)


def ended(pid: int) -> int:
    """The status a child ended with; -N for signal N."""
    _, status = os.waitpid(pid, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def bound(folder: Path) -> Path:
    """A set with all that can belong to a picture: a mask, a second caption, repeats, a link, a row of a table."""
    data = captioned(folder, "a photo of a <s1> thing")
    half = Image.new("L", (64, 64))
    half.paste(255, (0, 0, 32, 64))
    half.save(data / "0.mask.png")
    (data / "1.txt").write_text("a photo of a <s1> thing number 1\na <s1> thing\n")
    captioned(folder / "2_more", "a <s1> thing", [(64, 64)])
    (captioned(folder / "table", "", [(64, 64)]) / "0.txt").unlink()
    (data / "table/metadata.csv").write_text("file_name,text,repeats\n0.png,a small <s1> thing,2\n")
    (data / "4.png").symlink_to(data / "2_more/0.png")
    (data / "4.txt").write_text("a linked <s1> thing")
    return data


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def harness(home: Path, kills: int, options: Sequence[str], seed: int = 0) -> Tally:
    """Kill runs of `train` until `kills` have fallen; each is run to its end, however often it is killed on the way.

    AssertionError where a run ends in other bytes, another log, or leaves anything half-written.
    """
    os.chdir(home)
    data, draw = bound(home / "data"), random.Random(seed)
    arguments = ["train", str(data), *options, "--resume", "auto"]
    started = time.monotonic()
    assert ended(child([*arguments, "-o", "whole.safetensors"])) == 0, Path("kills.log").read_text()
    length = time.monotonic() - started
    wanted, losses = digest(home / "whole.safetensors"), _losses(home / "whole.run")
    tally = Tally(by_step=[])
    while tally.kills < kills:
        output, attempt = home / f"cut-{tally.runs}.safetensors", 0
        tally.runs += 1
        while True:
            pid = child([*arguments, "-o", output.name])
            attempt += 1
            # Later attempts get longer, so that every run ends.
            deadline = time.monotonic() + draw.uniform(0, length * (0.6 + 0.2 * attempt))
            while time.monotonic() < deadline and os.waitpid(pid, os.WNOHANG) == (0, 0):
                time.sleep(0.002)
            try:
                os.kill(pid, signal.SIGKILL)
                status = ended(pid)
            except (ProcessLookupError, ChildProcessError):
                status = 0
            if status == -signal.SIGKILL:
                tally.kills += 1
                tally.by_step.append(_steps(output.with_suffix(".run")))
                continue
            break
        assert output.exists(), Path("kills.log").read_text()[-2000:]
        assert digest(output) == wanted, f"run {tally.runs} ends in other bytes"
        assert _losses(output.with_suffix(".run")) == losses
    return tally


def _losses(run: Path) -> list[str]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [f"{row['step']} {row['loss']!r} {row['grad_norm']!r}" for row in rows]


def _steps(run: Path) -> int:
    log = run / "log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    options = sys.argv[2:] or ["--steps", "12", "--batch-size", "2", "--checkpoint-every", "3"]
    with tempfile.TemporaryDirectory() as home:
        started = time.monotonic()
        tally = harness(Path(home), kills, options)
        by_step = sorted(set(tally.by_step or ()))
        print(
            f"{tally.kills} kills over {tally.runs} runs in {time.monotonic() - started:.0f} s, at "
            f"{', '.join(f'step {s}: {(tally.by_step or []).count(s)}' for s in by_step)}; all ended in the same bytes"
        )


if __name__ == "__main__":
    main()
