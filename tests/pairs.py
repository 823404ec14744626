"""The program in several processes at once, as a launcher starts it, forked from one process that has imported everything.

`python -m tests.pairs` reads jobs from stdin, a JSON object a line, and answers each with the processes' statuses:
    count       of processes
    arguments   of the program
    env         more of the environment
    kill        [process, steps]: that process is killed once so many steps are in the log; the others then end by themselves
    log         the file, where there is `kill`
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def started(home: Path) -> Iterator[Callable[..., list[int]]]:
    """run(arguments, count=2, **more) -> statuses, in the folder `home`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.pairs"], cwd=home, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None

    def run(*arguments: object, count: int = 2, **more: Any) -> list[int]:
        job = {"count": count, "arguments": ["train", *map(str, arguments)], **more}
        print(json.dumps(job), file=process.stdin, flush=True)
        return list(json.loads(process.stdout.readline()))

    try:
        yield run
    finally:
        process.stdin.close()
        process.wait(timeout=60)


def main() -> None:
    # All that a run imports, before the first fork.
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel  # noqa: F401
    from torch.distributed.fsdp import fully_shard  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    import lorakit.jobs.train  # noqa: F401

    for line in sys.stdin:
        print(json.dumps(_run(**json.loads(line))), flush=True)


def _run(
    count: int,
    arguments: list[str],
    env: dict[str, str] | None = None,
    kill: tuple[int, int] | None = None,
    log: str = "",
) -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    pids = [_child(arguments, {**place, **(env or {}), "RANK": str(i), "LOCAL_RANK": str(i)}) for i in range(count)]
    if kill:
        deadline = time.monotonic() + 120
        while not Path(log).exists() or Path(log).read_text().count("\n") < kill[1]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(pids[kill[0]], signal.SIGKILL)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def _child(arguments: list[str], env: dict[str, str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 70
    with contextlib.suppress(BaseException):
        from lorakit.cli import _run as program

        os.environ.update(env)
        out = os.open(f"out-{env['RANK']}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        err = os.open(f"err-{env['RANK']}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for here, there in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
            os.dup2(here, there)
        status = program(arguments)
        sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
