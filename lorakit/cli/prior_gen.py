"""`lorakit prior-gen`"""

from pathlib import Path
from typing import Annotated

import typer

from lorakit.cli.command import Manner, command
from lorakit.cli.options import Model, Seed, one_of, size_of
from lorakit.cli.output import emit, note, progress
from lorakit.schedulers import SCHEDULERS


def prior_gen(
    manner: Manner,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help='The class, such as "a photo of a dog".')],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder of the class pictures.")],
    model: Model = "tiny",
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many; missing ones are made.")] = 100,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 20,
    guidance: Annotated[float, typer.Option(min=0, help="Classifier-free guidance.")] = 4.0,
    negative: Annotated[str, typer.Option(help="What not to draw.")] = "",
    scheduler: Annotated[str, typer.Option(metavar="|".join(SCHEDULERS), help="Sampling scheduler.")] = "dpm++",
    size: Annotated[str | None, typer.Option(metavar="N|WxH", help="Pixels; default, the model's own.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 8,
    seed: Seed = 0,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Draw class pictures for prior preservation; picture i depends on seed+i alone."""
    one_of("--scheduler", scheduler, tuple(SCHEDULERS))
    asked = size_of(size)
    from lorakit.jobs import prior_gen as job
    from lorakit.jobs import sample

    request = sample.Request([prompt], count, seed, negative, model, asked, steps, guidance, scheduler, batch_size)
    components = sample.load_model(model, device, dtype, note)
    with progress("drawing") as tick:
        result = job.run(
            request, Path(out), components, force=manner.force, dry_run=manner.dry_run, tick=tick, note=note
        )
    emit(result)


def register(app: typer.Typer) -> None:
    command(app, "prior-gen", compute=True)(prior_gen)
