"""The program in a child of this process, with little time and memory: what hostile files must not get past."""

import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    status: int
    stderr: str


def run(folder: Path, arguments: list[str], seconds: int = 60, room: int = 1 << 30, stdin: str = "") -> Ended:
    """Run the program in `folder` and give its status and what it said.

    seconds    CPU time and, times five, real time, after which it is killed (status -9 or -24)
    room       bytes of address space beside those that this process has
    """
    import diffusers  # noqa: F401  so that each child need not load it
    import torch
    import transformers  # noqa: F401

    import lorakit.jobs.sample
    import lorakit.jobs.train  # noqa: F401
    from lorakit.cli import _run

    torch.set_num_threads(1)
    (folder / ".stdin").write_text(stdin)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:  # nothing of pytest's may be run in the child
        status = 99
        try:
            os.chdir(folder)
            for number, name, flags in (
                (0, ".stdin", os.O_RDONLY),
                (1, ".stdout", os.O_WRONLY | os.O_CREAT),
                (2, ".stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            ):
                os.dup2(os.open(name, flags, 0o600), number)
            sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode) for n, mode in ((0, "r"), (1, "w"), (2, "w")))
            size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (size + room, size + room))
            used = int(sum(os.times()[:2]))
            resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, used + seconds))
            status = _run(arguments)
            sys.stderr.flush()
        finally:
            os._exit(status)
    deadline = time.monotonic() + 5 * seconds
    while True:
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            code = os.waitpid(pid, 0)[1]
            break
        time.sleep(0.01)
    return Ended(os.waitstatus_to_exitcode(code), (folder / ".stderr").read_text(errors="replace"))
