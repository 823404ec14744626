"""`lorakit sample`"""

from pathlib import Path
from typing import Annotated

import typer

from lorakit.cli.command import Manner, command
from lorakit.cli.options import Model, Output, Seed, one_of, size_of
from lorakit.cli.output import emit, note, progress
from lorakit.errors import InputError, UsageError
from lorakit.schedulers import SCHEDULERS


def _prompts(prompt: str | None, file: str | None) -> list[str]:
    if (prompt is None) == (file is None):
        raise UsageError("give a PROMPT or --prompts FILE, one of the two")
    if prompt is not None:
        return [prompt]
    try:
        lines = [line.strip() for line in Path(str(file)).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--prompts {file}: {getattr(error, 'strerror', None) or error}") from error
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise InputError(f"--prompts {file}: no prompts in it")
    return prompts


def sample(
    manner: Manner,
    prompt: Annotated[str | None, typer.Argument(metavar="[PROMPT]", help="What to draw.")] = None,
    lora: Annotated[
        list[str] | None, typer.Option(metavar="PATH[:WEIGHT]", help="Adapter or recipe; repeatable.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(metavar="FILE", help="Composition made by `compose`.")] = None,
    output: Output = "./samples",
    model: Model = "tiny",
    prompts: Annotated[str | None, typer.Option(metavar="FILE", help="Prompts, one a line.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Pictures of each prompt.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 30,
    guidance: Annotated[float, typer.Option(min=0, help="Classifier-free guidance; 1 turns it off.")] = 7.5,
    negative: Annotated[str, typer.Option(help="What not to draw.")] = "",
    scheduler: Annotated[str, typer.Option(metavar="|".join(SCHEDULERS), help="Sampling scheduler.")] = "dpm++",
    size: Annotated[str | None, typer.Option(metavar="N|WxH", help="Pixels; default, the model's own.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 8,
    seed: Seed = 0,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Draw pictures, with adapters. Picture i depends on seed+i alone."""
    one_of("--scheduler", scheduler, tuple(SCHEDULERS))
    asked, lines = size_of(size), _prompts(prompt, prompts)
    loras = [*(lora or ()), *([recipe] if recipe else ())]
    from lorakit.io.paths import check_adapters

    check_adapters(loras)
    from lorakit.jobs.sample import Request, run

    request = Request(lines, count, seed, negative, model, asked, steps, guidance, scheduler, batch_size)
    with progress("drawing") as tick:
        result = run(
            request, Path(output), loras=loras, device=device, dtype=dtype, force=manner.force,
            dry_run=manner.dry_run, tick=tick, note=note,
        )  # fmt: skip
    emit(result)


def register(app: typer.Typer) -> None:
    command(app, "sample", compute=True)(sample)
