"""The step at which a run went wrong, kept so that it can be looked at again: `--replay RUN/replay-NNNNNN.json`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.errors import InputError, some
from lorakit.io.files import write_text
from lorakit.io.plain import read_json
from lorakit.jobs.train.identity import RUN
from lorakit.naming import spelled
from lorakit.training import checkpoints
from lorakit.training.loop import Diverged, Step

if TYPE_CHECKING:
    from lorakit.jobs.train.runner import Run


def bundle(run: Run, error: Diverged) -> str:
    """Write the bundle; the sentence for the user. The last good checkpoint stays as it is."""
    step = error.step
    listed = checkpoints.listed(run.life.run_folder / "checkpoints")
    good = str(listed[-1][1]) if listed else None
    file = run.life.run_folder / f"replay-{step.number:06d}.json"
    samples = _samples(run, step)
    told = {
        "lorakit.run": run.notes[RUN],
        "step": step.number,
        "checkpoint": good,
        "loss": _number(float(step.loss)),
        "grad_norm": _number(float(step.norm)),
        "samples": samples,
    }
    if run.world.main:
        write_text(file, json.dumps(spelled(told), indent=1, ensure_ascii=False) + "\n")
    bad = [s["picture"] for s in samples if not isinstance(s["loss"], float)] or [s["picture"] for s in samples]
    kept = f"{good} is the last good checkpoint" if good else "there is no checkpoint before it"
    return f"{error} (pictures: {some(bad, 5)}); try a lower --lr\n{kept}; look at the step again with --replay {file}"


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _samples(run: Run, step: Step) -> list[dict[str, Any]]:
    pictures = run.data.pictures
    return [
        {"picture": pictures[name].name if name in pictures else name, "timestep": t, "loss": _number(error)}
        for name, t, error in zip(step.samples, step.timesteps.tolist(), step.errors.tolist(), strict=True)
    ]


def replay(run: Run, file: Path) -> dict[str, Any]:
    """Run again from the bundle's checkpoint to its step, and say what each picture's loss was there. Writes nothing."""
    try:
        told = read_json(file, "replay bundle")
        number, checkpoint = int(told["step"]), told["checkpoint"]
    except (InputError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--replay {file}: not a replay bundle of lorakit") from error
    if told.get("lorakit.run") != run.notes[RUN]:
        raise InputError(f"--replay {file} is of another run: its config, data or base model differ")
    first = 0
    if checkpoint is not None:
        found = checkpoints.read(Path(checkpoint), run.piece)
        run.state.restore(found.tensors, checkpoint)
        first = found.step
    run.fill()
    step = _until(run, first, number)
    samples = _samples(run, step)
    for one in samples:
        run.talk.note(f"step {step.number}: {one['picture']} at timestep {one['timestep']}: loss {one['loss']}")
    again = _number(float(step.loss)) == told["loss"]
    run.talk.note("the same loss as then" if again else f"the loss was {told['loss']} then, now {float(step.loss)}")
    return {"outputs": [], "step": step.number, "loss": _number(float(step.loss)), "same": again, "samples": samples}


def _until(run: Run, first: int, number: int) -> Step:
    try:
        for step in run.steps(first):
            if step.number == number:
                return step
    except Diverged as error:
        return error.step
    raise InputError(f"the run has no step {number}")
