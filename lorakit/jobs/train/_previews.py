"""Pictures of a run as it goes, with fixed seeds: what `sample` would draw with the file of that step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorakit.data.pngtext import encode
from lorakit.io.files import write_bytes
from lorakit.jobs import sample

if TYPE_CHECKING:
    from lorakit.jobs.train._run import Run

_STEPS, _GUIDANCE = 20, 4.0


def draw(run: Run, step: int) -> None:
    """RUN/previews/step-NNNNNN-K.png for each prompt, all from the run's seed."""
    life, components = run.life, run.components
    request = sample.Request(
        list(life.preview_prompts), 1, run.config.seed, "", run.config.model, None, _STEPS, _GUIDANCE, "dpm++", 8
    )
    how = sample.drawing(components, request)
    jobs = [(prompt, run.config.seed) for prompt in life.preview_prompts]
    for i, picture in enumerate(sample.pictures(components, request, how, jobs, run.talk.note)):
        settings = sample.settings_of(request, how, jobs[i][0], run.config.seed, [])
        file = life.run_folder / "previews" / f"step-{step:06d}-{i}.png"
        write_bytes(file, encode(picture, settings))
