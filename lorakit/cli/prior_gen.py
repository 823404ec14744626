"""`lorakit prior-gen`"""

from pathlib import Path
from typing import Annotated

import typer

from lorakit.bounds import check_drawing
from lorakit.cli.command import command
from lorakit.cli.manner import Manner
from lorakit.cli.options import (
    Model,
    PredictionType,
    Scheduler,
    Seed,
    Shift,
    Spacing,
    Tokenizer,
    Vae,
    ZeroSnr,
    check_sampling,
    check_text,
    size_of,
)
from lorakit.cli.output import emit, progress
from lorakit.errors import UsageError
from lorakit.process_config import Overrides


def prior_gen(
    manner: Manner,
    prompt: Annotated[
        str,
        typer.Argument(metavar="PROMPT", help='The class, such as "a photo of a dog"; may go with --prompts, --from.'),
    ],
    out: Annotated[str | None, typer.Argument(metavar="OUT", help="Folder of the class pictures.")] = None,
    prompts: Annotated[str | None, typer.Option(metavar="FILE", help="Prompts, one a line, that take turns.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="DATA", help="Class prompts from the captions of a training set.")
    ] = None,
    token: Annotated[str, typer.Option(help="The word for the subject, taken out of the captions of --from.")] = "",
    class_word: Annotated[str, typer.Option(help="The word that takes the token's place.")] = "",
    model: Model = "tiny",
    tokenizer: Tokenizer = None,
    prediction_type: PredictionType = None,
    zero_snr: ZeroSnr = None,
    shift: Shift = None,
    vae: Vae = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many; missing ones are made.")] = 100,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 20,
    guidance: Annotated[float, typer.Option(min=0, help="Classifier-free guidance.")] = 4.0,
    negative: Annotated[str, typer.Option(help="What not to draw.")] = "",
    scheduler: Scheduler = "dpm++",
    spacing: Spacing = None,
    size: Annotated[str | None, typer.Option(metavar="N|WxH", help="Pixels; default, the model's own.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 8,
    seed: Seed = 0,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Draw class pictures for prior preservation; picture i depends on seed+i alone."""
    check_text(token=token, class_word=class_word)
    check_sampling(scheduler, spacing)
    check_drawing({"count": count, "seed": seed, "steps": steps, "guidance": guidance})
    asked, of_model = size_of(size), Overrides(prediction_type, zero_snr, shift)
    wanted = [prompt]
    if out is None and (from_ is not None or prompts):
        out, wanted = prompt, []
    if out is None:
        raise UsageError('prior-gen needs a prompt and a folder: lorakit prior-gen "a photo of a dog" OUT')
    if any(not text.strip() for text in wanted):
        raise UsageError("prior-gen: the prompt is empty")
    if prompts:
        from lorakit.drawing.request import read_prompts

        wanted += read_prompts(prompts)
    if class_word and not token:
        raise UsageError("--class-word needs --token: the word whose place it takes")
    from lorakit.io.endings import FOLDER
    from lorakit.models.places import check_name
    from lorakit.models.vae import check_vae

    check_name(model)
    check_vae(vae)
    FOLDER.check(Path(out))
    from lorakit.drawing.request import Request
    from lorakit.jobs.prior_gen import run
    from lorakit.runtime.world import place

    request = Request(
        prompts=wanted,
        count=count,
        seed=seed,
        negative=negative,
        model=model,
        size=asked,
        steps=steps,
        guidance=guidance,
        scheduler=scheduler,
        batch_size=batch_size,
        dtype=dtype,
        spacing=spacing,
        vae=vae,
    ).of_model(of_model)
    with progress("drawing" if place().main else "") as talk:
        result = run(
            request,
            Path(out),
            captions=None if from_ is None else Path(from_),
            token=token,
            class_word=class_word,
            device=device,
            tokenizer=None if tokenizer is None else Path(tokenizer),
            force=manner.force,
            dry_run=manner.dry_run,
            talk=talk,
        )
    if result is not None:
        emit(result)


def register(app: typer.Typer) -> None:
    command(app, "prior-gen", compute=True)(prior_gen)
