"""`lorakit compose`"""

from pathlib import Path
from typing import Annotated

import typer

from lorakit.cli.command import command
from lorakit.cli.manner import Manner
from lorakit.cli.options import (
    BlockWeights,
    Composite,
    Model,
    Output,
    OwnFormat,
    PartWeights,
    PredictionType,
    Region,
    Schedule,
    Seed,
    Shift,
    Switch,
    Vae,
    ZeroSnr,
    check_text,
    one_of,
)
from lorakit.cli.output import emit, progress
from lorakit.errors import UsageError
from lorakit.process_config import Overrides


def compose(
    manner: Manner,
    adapters: Annotated[list[str], typer.Argument(metavar="PATH[:WEIGHT]...", help="Adapters or recipes.")],
    output: Output = "./recipe.toml",
    schedule: Schedule = None,
    block_weights: BlockWeights = None,
    layer_weights: Annotated[
        list[str] | None, typer.Option(metavar="NAME=REGEX=W", help="By names of modules; repeatable.")
    ] = None,
    part_weights: PartWeights = None,
    switch: Switch = None,
    composite: Composite = False,
    region: Region = None,
    words: Annotated[
        list[str] | None, typer.Option(metavar="NAME=TEXT", help="Follows the prompt where the adapter acts.")
    ] = None,
    bake: Annotated[bool, typer.Option("--bake", help="Write one adapter, where the weights are constant.")] = False,
    format: OwnFormat = None,
    plot: Annotated[str | None, typer.Option(metavar="PICTURE", help="Draw the weights by step.")] = None,
    plot_steps: Annotated[int, typer.Option(min=1, help="Steps of --plot.")] = 30,
    learn: Annotated[
        str | None, typer.Option(metavar="DATA", help="Find the weights that fit these pictures best.")
    ] = None,
    learn_per: Annotated[str, typer.Option(metavar="adapter|block|layer|band", help="What gets its own.")] = "adapter",
    learn_steps: Annotated[int, typer.Option(min=1, help="At most so many.")] = 60,
    learn_rate: Annotated[float, typer.Option(min=0, help="Of learning.")] = 0.05,
    learn_draws: Annotated[int, typer.Option(min=1, help="Noise levels of each picture.")] = 8,
    instance_prompt: Annotated[str | None, typer.Option(help="With --learn: of pictures without a caption.")] = None,
    model: Model = "tiny",
    prediction_type: PredictionType = None,
    zero_snr: ZeroSnr = None,
    shift: Shift = None,
    vae: Vae = None,
    seed: Seed = 0,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Compose adapters over time, blocks and places, as a recipe that sample, merge and compose read."""
    check_text(words=words, instance_prompt=instance_prompt)
    if vae is not None and learn is None:
        raise UsageError("--vae is for --learn, which encodes pictures")
    one_of("--learn-per", learn_per, ("adapter", "block", "layer", "band"))
    of_model = Overrides(prediction_type, zero_snr, shift)
    if of_model and learn is None:
        raise UsageError(
            "--prediction-type, --zero-snr and --shift are of the model that weights are learnt with: add --learn DATA"
        )
    from lorakit.io.endings import ADAPTER, PICTURE, RECIPE
    from lorakit.io.paths import check_adapters

    (ADAPTER if bake else RECIPE).check(Path(output))
    if plot:
        PICTURE.check(Path(plot))
    check_adapters(adapters)
    from lorakit.drawing.composing import MemberChanges
    from lorakit.jobs.compose import ComposeOptions, run

    how = None
    if learn is not None:
        from lorakit.io.inputs import existing_folder
        from lorakit.models.places import check_name
        from lorakit.models.vae import check_vae

        check_name(model)
        check_vae(vae)
        from lorakit.drawing.learn import Learning

        existing_folder(learn, "pictures to learn from")
        how = Learning(
            per=learn_per, steps=learn_steps, rate=learn_rate, draws=learn_draws, seed=seed, prompt=instance_prompt
        )
    changes = MemberChanges(
        schedules=schedule or (),
        blocks=block_weights or (),
        layers=layer_weights or (),
        parts=part_weights or (),
        regions=region or (),
        prompts=words or (),
        switch=switch,
        composite=composite,
    )
    wanted = ComposeOptions(
        bake=bake,
        file_format=format,
        plot=Path(plot) if plot else None,
        steps=plot_steps,
        learn=Path(learn) if learn else None,
        how=how,
        model=model,
        device=device,
        dtype=dtype,
        of_model=of_model,
        vae=vae,
    )
    with progress("learning") as talk:
        result = run(
            adapters,
            Path(output),
            force=manner.force,
            dry_run=manner.dry_run,
            talk=talk,
            changes=changes,
            wanted=wanted,
        )
    emit(result)


def register(app: typer.Typer) -> None:
    command(app, "compose", compute=True)(compose)
