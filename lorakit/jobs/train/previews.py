"""Pictures of a run as it goes: those that `lorakit sample PROMPT --lora FILE --seed SEED` would draw with its output."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lorakit.adapter import Adapter
from lorakit.config import TrainConfig
from lorakit.data.pngtext import encode
from lorakit.drawing import composing
from lorakit.drawing.request import Request, shots_of
from lorakit.drawing.session import Session
from lorakit.formats import writing
from lorakit.io.files import write_bytes
from lorakit.jobs.train.run_options import RunOptions
from lorakit.models.load import Components
from lorakit.talk import silent

_STEPS, _GUIDANCE, _SCHEDULER = 30, 7.5, "dpm++"  # what `sample` takes where nothing is asked for


def draw(
    step: int,
    components: Components,
    config: TrainConfig,
    life: RunOptions,
    adapter: Adapter | None,
    family: str | None,
    *,
    main: bool,
) -> None:
    """RUN/previews/step-NNNNNN-K.png for each prompt, all from the run's seed.

    components   the model without what is trained beside it: the adapter is put on as from a file
    adapter      what is trained, None where the model itself is
    main         whether this process writes the pictures
    """
    request = Request(
        prompts=list(life.preview_prompts),
        count=1,
        seed=config.seed,
        negative="",
        model=config.model,
        size=None,
        steps=_STEPS,
        guidance=_GUIDANCE,
        scheduler=_SCHEDULER,
        batch_size=8,
        vae=config.vae,
    ).of_model(config.of_model)
    with tempfile.TemporaryDirectory() as home:
        arguments = []
        if adapter is not None:
            file = Path(home) / f"step-{step:06d}.safetensors"
            writing.save(file, adapter, "kohya", None, family and [family])
            arguments = [str(file)]
        composition = composing.read(arguments)
        session = Session(components, [composition], silent)
        try:
            shots = shots_of(request, composition)
            session.tell(shots)
            for i, one in enumerate(session.draw(shots)):
                target = life.run_folder / "previews" / f"step-{step:06d}-{i}.png"
                if main:
                    write_bytes(target, encode(one.picture, one.settings))
        finally:
            session.ensemble.remove()
