"""Pictures of a run as it goes: those that `lorakit sample PROMPT --lora FILE --seed SEED` would draw with its output."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lorakit.data.pngtext import encode
from lorakit.drawing import composing
from lorakit.drawing.request import shots_of
from lorakit.formats import writing
from lorakit.io.files import write_bytes
from lorakit.jobs import sample

if TYPE_CHECKING:
    from lorakit.jobs.train.runner import Run

_STEPS, _GUIDANCE, _SCHEDULER = 30, 7.5, "dpm++"  # what `sample` takes where nothing is asked for


def draw(run: Run, step: int) -> None:
    """RUN/previews/step-NNNNNN-K.png for each prompt, all from the run's seed. The model is as it was before training
    meanwhile, with the adapter put on as from a file; one that is trained whole draws as it stands."""
    life, components, adapter = run.life, run.components, run.adapter()
    request = sample.Request(
        list(life.preview_prompts),
        1,
        run.config.seed,
        "",
        run.config.model,
        None,
        _STEPS,
        _GUIDANCE,
        _SCHEDULER,
        8,
        vae=run.config.vae,
    ).of_model(run.config.of_model)
    with tempfile.TemporaryDirectory() as home, run.trained.bare():
        arguments = []
        if adapter is not None:
            file = Path(home) / f"step-{step:06d}.safetensors"
            writing.save(file, adapter, "kohya", None, run.data.family and [run.data.family])
            arguments = [str(file)]
        composition = composing.read(arguments)
        session = sample.Session(components, [composition], lambda text: None)
        try:
            shots = shots_of(request, composition)
            session.tell(shots)
            for i, one in enumerate(session.draw(shots)):
                target = life.run_folder / "previews" / f"step-{step:06d}-{i}.png"
                if run.world.main:
                    write_bytes(target, encode(one.picture, one.settings))
        finally:
            session.ensemble.remove()
