"""Work given to processes that may crash, hang or run out of memory without harm to the rest."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import lorakit
from lorakit.errors import ResourceError
from lorakit.runtime.heap import KEEPS_FREED_MEMORY

_LONGEST_WAIT = 0.5  # seconds, after which a wait begins anew: Windows hears no Ctrl-C during one
_SHORTEST_WAIT = 0.05  # seconds in which the threads can hand on what a late process has said after all


@dataclass(eq=False, kw_only=True)
class _WorkerProcess:
    """A process, what it was asked last (`tag`), and when it must have answered (`deadline`, 0 while it is idle).

    heard   whether its answer, or its end, waits to be looked at
    """

    process: subprocess.Popen[bytes]
    listener: Thread
    tag: Any = None
    deadline: float = 0.0
    heard: bool = False

    @property
    def busy(self) -> bool:
        return self.deadline > 0

    def send(self, line: bytes) -> None:
        """Give it a line to read. Where it has died already, its listener tells."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.listener.join(1.0)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not read there is dropped
                    pipe.close()


def _how_it_ended(code: int) -> str:
    """`code` is minus the signal, or on Windows a number such as 0xC0000005."""
    how = signal.Signals(-code).name if code < 0 else f"status {code:#x}" if code > 255 else f"status {code}"
    if how == "SIGKILL":
        return "the process that read it was killed (out of memory?)"
    return f"it crashed the process that read it ({how})"


class Guarded:
    """`count` processes of a module's `main`, which answers each line of JSON with one.

    Requests go out one a process, so no more is in flight than there are processes. A process that takes longer than
    `seconds` over one request, or dies, is replaced; that request gets {"reason": ...} and the rest goes on.
    """

    def __init__(self, module: str, setup: dict[str, Any], count: int, seconds: float) -> None:
        self._module, self._setup, self._seconds = module, json.dumps(setup).encode() + b"\n", seconds
        self._said = SimpleQueue[tuple[_WorkerProcess, bytes]]()  # lines of the processes; an empty one is the last
        self._workers: list[_WorkerProcess] = []
        self._count, self._deaths = count, 0

    def _start(self) -> _WorkerProcess:
        home = str(Path(lorakit.__file__).parents[1])
        paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        env["OPENCV_FOR_THREADS_NUM"] = "1"
        env = KEEPS_FREED_MEMORY | env
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
        )
        worker = _WorkerProcess(process=process, listener=Thread(target=lambda: self._listen(worker), daemon=True))
        worker.send(self._setup)
        worker.listener.start()
        self._workers.append(worker)
        return worker

    def _listen(self, worker: _WorkerProcess) -> None:
        """In a thread for each process, since Windows cannot wait for several pipes at once."""
        assert worker.process.stdout is not None
        line = b"\n"
        while line.endswith(b"\n"):
            line = worker.process.stdout.readline()
            worker.heard = True
            self._said.put((worker, line if line.endswith(b"\n") else b""))

    def _drop(self, worker: _WorkerProcess) -> None:
        self._workers.remove(worker)
        worker.end()

    def _idle(self) -> _WorkerProcess | None:
        for worker in self._workers:
            if not worker.busy:
                return worker
        return self._start() if len(self._workers) < self._count else None

    def _hear(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """What is answered, has died or is late, at the next event."""
        soonest = min(worker.deadline for worker in self._workers if worker.busy) - time.monotonic()
        try:
            worker, line = self._said.get(timeout=min(max(soonest, _SHORTEST_WAIT), _LONGEST_WAIT))
        except Empty:
            pass
        else:
            if worker in self._workers:  # else it was dropped, and this is its end
                yield from self._take(worker, line)
        for worker in [w for w in self._workers if w.busy and not w.heard and w.deadline <= time.monotonic()]:
            self._drop(worker)
            yield worker.tag, {"reason": f"took longer than {self._seconds:g} seconds to read"}

    def _take(self, worker: _WorkerProcess, line: bytes) -> Iterator[tuple[Any, dict[str, Any]]]:
        """An answer, or the end of a process."""
        if line:
            worker.deadline, worker.heard, self._deaths = 0.0, False, 0
            yield worker.tag, json.loads(line)
            return
        code = worker.process.wait()
        self._drop(worker)
        if worker.busy:
            self._deaths += 1
            if self._deaths > 20:
                raise ResourceError("the processes that read pictures die one after the other; try --workers 1")
            yield worker.tag, {"reason": _how_it_ended(code)}

    def answers(self, requests: Iterable[tuple[Any, dict[str, Any]]]) -> Iterator[tuple[Any, dict[str, Any]]]:
        """(tag, answer) of each (tag, request), in whichever order they come."""
        waiting, more = iter(requests), True
        while more or any(worker.busy for worker in self._workers):
            while more and (worker := self._idle()) is not None:
                request = next(waiting, None)
                if request is None:
                    more = False
                    break
                worker.tag, worker.deadline = request[0], time.monotonic() + self._seconds
                worker.send(json.dumps(request[1]).encode() + b"\n")
            if any(worker.busy for worker in self._workers):
                yield from self._hear()

    def __enter__(self) -> "Guarded":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in list(self._workers):
            self._drop(worker)
