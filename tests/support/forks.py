"""The program in processes of its own, forked from one that has imported everything and computes nothing.

For what only a process shows: signals, kills, limits, streams, several at once. Each begins at once, not after seconds of
imports.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_MOST = 1 << 17  # bytes of a message


class Child:
    """A process of the program, as `subprocess.Popen` has one."""

    def __init__(self, server: Server, pid: int, out: IO[bytes], err: IO[bytes]) -> None:
        self.server, self.pid, self._out, self._err = server, pid, out, err
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.server.ask({"ended": self.pid})
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            assert time.monotonic() < deadline, "the program does not end"
            time.sleep(0.005)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    @property
    def stdout(self) -> str:
        return _content(self._out)

    @property
    def stderr(self) -> str:
        return _content(self._err)


def _content(file: IO[bytes]) -> str:
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()


class Server:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def ask(self, job: Mapping[str, Any], files: Sequence[int] = ()) -> Any:
        message = json.dumps(job).encode()
        assert len(message) < _MOST
        socket.send_fds(self._channel, [message], files)
        return json.loads(self._channel.recv(_MOST))

    def start(
        self,
        folder: Path,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        stdout: int | None = None,
        stderr: int | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> Child:
        """Begin a command in `folder`.

        stdout, stderr    descriptors to write to; without them what it says is kept for the child to tell
        limits            of `resource`, by name: RLIMIT_FSIZE
        """
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  they end with the child
        streams = (out.fileno() if stdout is None else stdout, err.fileno() if stderr is None else stderr)
        with tempfile.TemporaryFile() as given:
            given.write(stdin.encode())
            given.seek(0)
            job = {"arguments": [str(a) for a in arguments], "folder": str(folder), "limits": dict(limits or {})}
            pid = self.ask({**job, "env": {**os.environ, **(env or {})}}, [given.fileno(), *streams])
        return Child(self, pid, out, err)


@contextlib.contextmanager
def served() -> Iterator[Server]:
    ours, theirs = socket.socketpair()
    root = str(Path(__file__).parents[2])
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forks", str(theirs.fileno())],
            cwd=root,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])},
        )
        theirs.close()
        yield Server(ours)
    process.wait(timeout=60)


def main() -> None:
    # All that a run imports, before the first fork.
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel  # noqa: F401
    from PIL import Image  # noqa: F401
    from torch.distributed.fsdp import fully_shard  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    import lorakit.drawing.class_pictures
    import lorakit.jobs.sample
    import lorakit.jobs.train  # noqa: F401

    channel = socket.socket(fileno=int(sys.argv[1]))
    while message_and_files := socket.recv_fds(channel, _MOST, 3):
        message, files = message_and_files[:2]
        if not message:
            break
        job = json.loads(message)
        answer: int | None
        if "ended" in job:
            pid, status = os.waitpid(job["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = _child(channel, files, **job)
        for file in files:
            os.close(file)
        channel.send(json.dumps(answer).encode())
    os._exit(0)  # nothing is to be taken down


def _child(
    channel: socket.socket,
    files: list[int],
    arguments: list[str],
    folder: str,
    env: dict[str, str],
    limits: dict[str, int],
) -> int:
    pid = os.fork()
    if pid:
        return pid
    status: Any = 70
    try:
        import resource

        from lorakit import cli

        channel.close()
        # As a terminal has it: jobs in the background of a script are told to ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(env)
        for there, here in enumerate(files):
            os.dup2(here, there)
            os.close(here)
        for name, most in limits.items():
            resource.setrlimit(getattr(resource, name), (most, most))
        sys.argv = ["lorakit", *arguments]
        cli.main()
    except SystemExit as ended:
        status = ended.code
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
