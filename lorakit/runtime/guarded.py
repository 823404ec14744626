"""Work given to processes that may crash, hang or run out of memory without harm to the rest."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lorakit
from lorakit.errors import ResourceError
from lorakit.runtime.heap import KEEPS_FREED_MEMORY


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    tag: Any = None
    deadline: float = 0.0
    said: bytearray = field(default_factory=bytearray)

    @property
    def busy(self) -> bool:
        return self.deadline > 0

    def give(self, tag: Any, request: dict[str, Any], seconds: float) -> None:
        assert self.process.stdin is not None
        self.tag, self.deadline = tag, time.monotonic() + seconds
        self.said.clear()
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def end(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.kill()
        self.process.wait()


def _how_it_ended(code: int) -> str:
    if code == -signal.SIGKILL:
        return "the process that read it was killed (out of memory?)"
    return f"it crashed the process that read it ({signal.Signals(-code).name if code < 0 else f'status {code}'})"


class Guarded:
    """`count` processes of a module's `main`, which answers each line of JSON with one.

    Requests go out one a process, so no more is in flight than there are processes. A process that takes longer than
    `seconds` over one request, or dies, is replaced; that request gets {"reason": ...} and the rest goes on.
    """

    def __init__(self, module: str, setup: dict[str, Any], count: int, seconds: float) -> None:
        self._module, self._setup, self._seconds = module, json.dumps(setup).encode() + b"\n", seconds
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._count, self._deaths = count, 0

    def _start(self) -> _Worker:
        home = str(Path(lorakit.__file__).parents[1])
        paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        env["OPENCV_FOR_THREADS_NUM"] = "1"
        env = KEEPS_FREED_MEMORY | env
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", self._module], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=env,
        )  # fmt: skip
        worker = _Worker(process)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(self._setup)
        process.stdin.flush()
        os.set_blocking(process.stdout.fileno(), False)
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        self._workers.append(worker)
        return worker

    def _drop(self, worker: _Worker) -> None:
        self._selector.unregister(worker.process.stdout)  # type: ignore[arg-type]
        self._workers.remove(worker)
        worker.end()

    def _idle(self) -> _Worker | None:
        for worker in self._workers:
            if not worker.busy:
                return worker
        return self._start() if len(self._workers) < self._count else None

    def _hear(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """What is answered, has died or is late, at the next event."""
        soonest = min(worker.deadline for worker in self._workers if worker.busy)
        for key, _ in self._selector.select(max(0.0, soonest - time.monotonic())):
            worker: _Worker = key.data
            part = os.read(key.fd, 1 << 16)
            worker.said += part
            if worker.said.endswith(b"\n"):
                worker.deadline, self._deaths = 0.0, 0
                yield worker.tag, json.loads(worker.said)
            elif not part:
                code = worker.process.wait()
                self._drop(worker)
                if worker.busy:
                    self._deaths += 1
                    if self._deaths > 20:
                        raise ResourceError("the processes that read pictures die one after the other; try --workers 1")
                    yield worker.tag, {"reason": _how_it_ended(code)}
        for worker in [w for w in self._workers if w.busy and w.deadline <= time.monotonic()]:
            self._drop(worker)
            yield worker.tag, {"reason": f"took longer than {self._seconds:g} seconds to read"}

    def answers(self, requests: Iterable[tuple[Any, dict[str, Any]]]) -> Iterator[tuple[Any, dict[str, Any]]]:
        """(tag, answer) of each (tag, request), in whichever order they come."""
        waiting, more = iter(requests), True
        while more or any(worker.busy for worker in self._workers):
            while more and (worker := self._idle()) is not None:
                request = next(waiting, None)
                if request is None:
                    more = False
                    break
                try:
                    worker.give(*request, self._seconds)
                except BrokenPipeError:
                    worker.deadline = time.monotonic() + self._seconds  # its end is heard below
            if any(worker.busy for worker in self._workers):
                yield from self._hear()

    def __enter__(self) -> "Guarded":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in list(self._workers):
            self._drop(worker)
        self._selector.close()
