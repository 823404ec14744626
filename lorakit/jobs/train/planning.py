"""What a run is going to do, said before its first step; and what to do where memory does not suffice."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from lorakit.config import RATES, TrainConfig
from lorakit.errors import ResourceError, UsageError
from lorakit.fields import option
from lorakit.models.load import Components
from lorakit.registry import TRAINABLE
from lorakit.runtime.device import peak_memory
from lorakit.training import checkpoints, variants
from lorakit.training.branches import axis_of, targets_of
from lorakit.training.course import Course, course

if TYPE_CHECKING:
    from lorakit.jobs.train.runner import Run

_GROUPS = ("unet", "text", "tokens")  # and the rates they learn at
_PROBES = 2  # steps that are timed: the first also warms up


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Figures of a run before it begins. seconds and memory are measured by steps that change nothing; None where no
    step was taken."""

    steps: int
    epochs: float
    groups: dict[str, int]
    pictures: dict[str, int]
    held_out: int
    disk_bytes: int
    rates: dict[str, tuple[float, str]]
    courses: dict[str, Course]
    masks: int = 0
    repeats: dict[int, int] = field(default_factory=dict)
    step_seconds: float | None = None
    memory_bytes: int | None = None

    def figures(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "epochs": round(self.epochs, 2),
            "trainable_parameters": sum(self.groups.values()),
            "parameters": self.groups,
            "pictures": self.pictures,
            "held_out": self.held_out,
            "masks": self.masks,
            "repeats": self.repeats,
            "rates": {name: value for name, (value, _) in self.rates.items()},
            "curves": {name: of.figures() for name, of in self.courses.items()},
            "disk_bytes": self.disk_bytes,
            "seconds_expected": self.expected,
            "memory_bytes": self.memory_bytes,
        }

    def _more(self) -> list[str]:
        """What there is to say of the pictures beside their sizes."""
        often = {
            n: f"{count} of them {n} times" if n > 1 else f"{count} of them once"
            for n, count in sorted(self.repeats.items())
        }
        said = [f"{self.masks} with a mask" if self.masks == 1 else f"{self.masks} with masks"] * bool(self.masks)
        said += [f"{self.held_out} held out"] * bool(self.held_out)
        return said + [f"repeats: an epoch shows {', '.join(often.values())}"] * (set(often) != {1})

    @property
    def expected(self) -> float | None:
        return None if self.step_seconds is None else round(self.steps * self.step_seconds, 1)

    def lines(self) -> list[str]:
        parameters = ", ".join(f"{count:,} of {name}" for name, count in self.groups.items())
        shapes = ", ".join(f"{count} of {shape}" for shape, count in self.pictures.items())
        found = [
            f"plan: {self.steps} steps, {self.epochs:.1f} epochs; trains {parameters}",
            *(
                f"plan: {name} {value:g} (from the {of}), {self.courses[name].told()}"
                for name, (value, of) in self.rates.items()
            ),
            f"plan: pictures by size: {shapes}" + "".join(f"; {text}" for text in self._more()),
            f"plan: {self.disk_bytes / 1e6:.0f} MB of disk",
        ]
        if self.step_seconds is not None and self.memory_bytes is not None:
            found[-1] += (
                f", {self.memory_bytes / 1e6:.0f} MB of memory, about {_said(self.steps * self.step_seconds)} at "
                f"{self.step_seconds:.3f} s a step"
            )
            found += [line for name, of in self.courses.items() for line in (f"plan: {name} by step", *of.drawn())]
        return found


def _said(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def plan(run: Run) -> RunPlan:
    """Where the run is only planned, two steps are measured; their gradients are thrown away."""
    config, data = run.config, run.data
    shapes = {f"{row['size'][0]}x{row['size'][1]}": row["pictures"] for row in data.table}
    named = dict(zip(_GROUPS, RATES, strict=True))
    groups = {group.name: run.count(group.parameters) for group in run.trained.groups}
    state = run.size_of(run.state.tensors())
    moments = 2 * 4 * sum(groups.values())
    disk = (run.life.keep + 1) * (state + moments) + 4 * sum(groups.values())
    seconds = memory = None
    if run.life.plan:
        seconds, memory = _measured(run)
        memory += moments // (1 if run.shards is None else run.world.size)
    epochs = data.sources[0].batches.epochs(config.total)
    rates = {
        option(name): (getattr(config, name), run.life.sources.get(name, "model"))
        for group, name in named.items()
        if group in groups
    }
    courses = {option(named[group.name]): course(group, config.total) for group in run.trained.groups}
    return RunPlan(
        steps=config.total,
        epochs=epochs,
        groups=groups,
        pictures=shapes,
        held_out=data.held_out,
        disk_bytes=disk,
        rates=rates,
        courses=courses,
        masks=data.masks,
        repeats=dict(data.repeats),
        step_seconds=seconds,
        memory_bytes=memory,
    )


def _measured(run: Run) -> tuple[float, int]:
    run.fill()
    seconds = 0.0
    for step in range(_PROBES):
        active = [p for group in run.trained.groups if group.learns(step) for p in group.parameters.values()]
        started = time.monotonic()
        float(run.objective(step, active).loss)
        seconds = time.monotonic() - started
    return seconds, peak_memory(run.components.device)


def show_targets(components: Components, config: TrainConfig, mode: ModuleType) -> dict[str, Any]:
    """The modules that would be trained, a row each; nothing is. UsageError for modes that choose none."""
    if not mode.ADAPTERS:
        raise UsageError(f"--show-targets is for modes that train adapters, and {config.mode} has none")
    rows = variants.table(targets_of(components, config), TRAINABLE[config.variant], axis_of(config))
    return {
        "outputs": [],
        "targets": [asdict(row) for row in rows],
        "trainable_parameters": sum(row.parameters for row in rows),
    }


def out_of_memory(run: Run, error: BaseException) -> ResourceError:
    """With the three cheapest remedies that are left, and what each is expected to save."""
    config, components = run.config, run.components
    listed = checkpoints.listed(run.life.run_folder / "checkpoints")
    frozen = sum(p.numel() * p.element_size() for part in components.parts.values() for p in part.parameters())
    batch = config.batch_size or 1
    remedies = []
    if not config.gradient_checkpointing:
        remedies.append("--gradient-checkpointing (about two thirds of the activations)")
    if batch > 1:
        half = batch // 2
        remedies.append(
            f"--batch-size {half} --accumulate {config.accumulate * 2} (half of the activations, the same steps)"
        )
    if components.dtype == torch.float32 and components.device.type != "cpu":
        remedies.append(f"--dtype bfloat16 ({frozen / 2e6:.0f} MB of frozen weights)")
    side = config.size or components.size
    smaller = max(components.multiple, side * 3 // 4 // components.multiple * components.multiple)
    if smaller < side:
        remedies.append(f"--size {smaller} (about {1 - (smaller / side) ** 2:.0%} of the activations)")
    state = f"; {listed[-1][1]} is saved" if listed else ""
    return ResourceError(
        f"out of memory, {peak_memory(components.device) / 1e6:.0f} MB were in use{state}\ntry "
        + ", or ".join(remedies[:3])
    )
