"""What happens beside the steps: the log, checkpoints, validations, previews, trackers, signals."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

import torch

from lorakit.errors import Stopped
from lorakit.jobs.train.run_options import RunOptions
from lorakit.naming import spelled
from lorakit.runtime.device import peak_memory
from lorakit.runtime.signals import deferred
from lorakit.runtime.world import World
from lorakit.talk import Talk
from lorakit.training.loop import Diverged, Step, finite

_STRATA = 4
_SMOOTH = 20  # steps that are averaged for people
_ECHO = 2.0  # seconds
_LAG = 10  # steps whose numbers wait on a device before someone reads them


class Monitor:
    """Reads the steps of a run. On a device that runs ahead it looks at their numbers only every few steps."""

    def __init__(
        self,
        life: RunOptions,
        talk: Talk,
        world: World,
        device: torch.device,
        steps: int,
        timesteps: int,
        rows: list[dict[str, Any]],
        trackers: Sequence[Any],
    ) -> None:
        self.life, self.talk, self.world, self.device = life, talk, world, device
        self.steps, self.timesteps, self.rows, self.trackers = steps, timesteps, rows, trackers
        self.pending: list[Step] = []
        self.spent = 0.0
        self._last = time.monotonic()

    def run(
        self,
        steps: Iterable[Step],
        save: Callable[[int], None],
        every: Sequence[tuple[int, Callable[[int], dict[str, Any]]]],
    ) -> int:
        """Consume the steps; the number of the last. `every` has (interval, job) pairs: a job gives more for the log's
        row, and "stop": True where the run is to end there."""
        number, stopped = 0, False
        lag = 1 if self.device.type == "cpu" else _LAG
        file = self.life.run_folder / "log.jsonl"
        with (
            deferred(_ECHO if self.world.size > 1 else 0.0) as asked,
            file.open("a", encoding="utf-8", newline="\n") if self.world.main else _nowhere() as log,
        ):
            self._last = time.monotonic()
            for step in steps:
                number, last = step.number, step.number == self.steps
                self.pending.append(step)
                jobs = [job for interval, job in every if interval and (number % interval == 0 or last)]
                signal = self.world.highest(asked.number)
                due = last or signal or number % self.life.checkpoint_every == 0
                if jobs or due or len(self.pending) >= lag:
                    self._read()
                    more: dict[str, Any] = {}
                    for job in jobs:
                        more |= job(number)
                    stopped = bool(more.pop("stop", False))
                    self._write(log, more)
                if due or stopped:
                    save(number)
                if signal and not last:
                    self.world.wait()  # whoever leaves first makes the launcher end the others
                    raise Stopped(
                        signal, f"stopped at step {number}, which is saved; the same command goes on from there"
                    )
                if stopped:
                    break
        return number

    def _read(self) -> None:
        """Look at the pending steps: a loss that is not finite ends the run."""
        for step in self.pending:
            if not finite(step):
                raise Diverged(step)

    def _write(self, log: TextIO, more: dict[str, Any]) -> None:
        now = time.monotonic()
        each = (now - self._last) / len(self.pending)
        self.spent += now - self._last
        self._last = now
        for step in self.pending:
            row = self._row(step, each)
            if step is self.pending[-1]:
                row |= more
            self.rows.append(row)
            if self.world.main:
                log.write(json.dumps(spelled(row)) + "\n")
                for tracker in self.trackers:
                    tracker.log(step.number, _numbers(row))
        log.flush()
        self.talk.show(_figures(self.rows))
        self.talk.tick(self.pending[-1].number, self.steps)
        self.pending.clear()

    def _row(self, step: Step, seconds: float) -> dict[str, Any]:
        errors, times = step.errors.tolist(), step.timesteps.tolist()
        strata: list[list[float]] = [[] for _ in range(_STRATA)]
        for error, t in zip(errors, times, strict=True):
            strata[min(_STRATA - 1, t * _STRATA // self.timesteps)].append(error)
        return {
            "step": step.number,
            "loss": float(step.loss),
            "lr": next(iter(step.rates.values()), 0.0),
            "rates": dict(step.rates),
            **{name: float(x) for name, x in step.found.items()},
            "grad_norm": float(step.norm),
            "seconds": round(seconds, 4),
            "waited": round(step.waited, 6),
            "samples_per_second": round(len(errors) / seconds, 3) if seconds else 0.0,
            "memory_bytes": peak_memory(self.device),
            "loss_by_time": [round(sum(s) / len(s), 6) if s else None for s in strata],
            "samples": [[name, t, round(e, 6)] for name, t, e in zip(step.samples, times, errors, strict=True)],
        }


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """The row's single numbers, as trackers take them."""
    flat = {key: value for key, value in row.items() if isinstance(value, int | float) and key != "step"}
    return flat | {f"lr/{name}": value for name, value in row["rates"].items()}


def _figures(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What people watch, of numbers that were read already: loss and speed over the last steps."""
    now, last = rows[-1], rows[-_SMOOTH:]
    seconds = sum(row["seconds"] for row in last)
    speed = sum(len(row["samples"]) for row in last) / seconds if seconds else 0.0
    return {
        "loss": f"{final_loss(rows):.4f}",
        "lr": f"{now['lr']:.3g}" + (f" x {now['d']:.3g}" if "d" in now else ""),
        "samples/s": f"{speed:.1f}",
        "grad": f"{now['grad_norm']:.2g}",
        "memory": f"{now['memory_bytes'] / 1e6:.0f} MB",
    }


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def final_loss(rows: Sequence[dict[str, Any]]) -> float:
    """The mean of the last steps' losses."""
    last = rows[-_SMOOTH:]
    return sum(row["loss"] for row in last) / max(1, len(last))
