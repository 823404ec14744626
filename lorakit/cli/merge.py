"""`lorakit merge`"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from lorakit.cli.command import command
from lorakit.cli.manner import Manner
from lorakit.cli.options import ADAPTER_FILES, CutInputs, Output, OwnFormat, PredictionType, Shift, Vae, ZeroSnr, one_of
from lorakit.cli.output import emit, progress
from lorakit.dtypes import FLOATS
from lorakit.errors import UsageError
from lorakit.process_config import Overrides
from lorakit.registry import MERGE_METHODS


def merge(
    manner: Manner,
    adapters: Annotated[list[str], typer.Argument(metavar="PATH[:WEIGHT]...", help="Adapters, or a recipe.")],
    alpha: Annotated[
        float | None, typer.Option(help="Two adapters: ALPHA of the first, 1-ALPHA of the second.")
    ] = None,
    weights: Annotated[str | None, typer.Option(metavar="W,W,...", help="A weight for each adapter.")] = None,
    method: Annotated[str, typer.Option(help=f"How deltas are joined: {', '.join(MERGE_METHODS.names())}.")] = "linear",
    density: Annotated[float | None, typer.Option(help="Share of entries that stay, 0 to 1 (ties, dare, ...).")] = None,
    spread: Annotated[float | None, typer.Option(help="della: how far chances to stay differ in a row.")] = None,
    conflict: Annotated[float | None, typer.Option(help="zip: what overlap costs, 0 to 1.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the methods that draw. Same seed, same result.")] = None,
    rank: Annotated[
        str | None,
        typer.Option(
            metavar="N|full|auto|energy:X",
            help="Rank of the result; default full, exact. Of a dense result the sum of the ranks.",
        ),
    ] = None,
    max_rank: Annotated[int | None, typer.Option(min=1, help="No module's rank is above this.")] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Ranks that fit a file of this size best, such as 50MB.")
    ] = None,
    part_weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART=W,...",
            help="unet, text_encoder, text_encoder_2; of Flux and others, transformer: a factor of it.",
        ),
    ] = None,
    block_weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[FILE:]BLOCK=W,...",
            help="down.1=0.2,mid=1,up=0.8, or double_blocks.3=0; the i-th is of the i-th adapter.",
        ),
    ] = None,
    sweep: Annotated[
        str | None, typer.Option(metavar="FROM:TO:COUNT", help="Two adapters: a file for each of these alphas.")
    ] = None,
    rename_token: Annotated[
        list[str] | None, typer.Option(metavar="FILE:OLD=NEW", help="A new name for a learned token.")
    ] = None,
    allow_unmatched: Annotated[
        bool, typer.Option("--allow-unmatched", help="List what matches nothing, and go on.")
    ] = False,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="For DoRA, GLoRA, OFT and others that depend on its weights.")
    ] = None,
    report: Annotated[
        str | None, typer.Option(metavar="FILE.html", help="A page with a heat map and the singular values.")
    ] = None,
    output: Output = "./merged.safetensors",
    format: OwnFormat = None,
    save_dtype: Annotated[
        str | None, typer.Option(metavar="|".join(FLOATS), help="Default float32; with --into each weight's own.")
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Collapse the sum into this model: OUT.safetensors, OUT.ckpt or a folder."),
    ] = None,
    prediction_type: PredictionType = None,
    zero_snr: ZeroSnr = None,
    shift: Shift = None,
    stochastic_rounding: Annotated[
        bool, typer.Option("--stochastic-rounding", help="With --into: round by chance, without bias.")
    ] = False,
    vae: Vae = None,
    cut_inputs: CutInputs = False,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="With --into, from a single file to a folder: its tokenizer.")
    ] = None,
) -> None:
    """Merge adapters into one: the weighted sum of their deltas, exactly, or another method's."""
    from lorakit.cli import ranks
    from lorakit.composition.module_weights import read_blocks, read_parts

    MERGE_METHODS.check(method)
    if format is not None:
        one_of("--format", format, ADAPTER_FILES)
    one_of("--save-dtype", save_dtype or "float32", tuple(FLOATS))
    of_model = Overrides(prediction_type, zero_snr, shift)
    if into is None and (stochastic_rounding or tokenizer is not None or of_model or cut_inputs or vae is not None):
        raise UsageError(
            "--stochastic-rounding, --tokenizer, --cut-inputs, --vae, --prediction-type, --zero-snr and --shift are for --into "
            "MODEL"
        )
    if into is not None and base is not None:
        raise UsageError("--base and --into: the model that the sum goes into is the base; leave --base out")
    recipe = len(adapters) == 1 and adapters[0].partition(".toml")[1] != ""
    if len(adapters) < 2 and not recipe and into is None:
        raise UsageError("merge needs two adapters or more")
    given = [
        name for name, value in (("--alpha", alpha), ("--weights", weights), ("--sweep", sweep)) if value is not None
    ]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} both give the weights; choose one")
    if (alpha is not None or sweep is not None) and not recipe and len(adapters) != 2:
        raise UsageError(f"{given[0]} is for exactly two adapters")
    rule = None
    if rank is not None or max_rank is not None or budget is not None:
        rule = ranks.rule(rank or "full", max_rank, budget)
    read_parts(part_weights or ())
    read_blocks(block_weights or ())
    alphas = _series(sweep) if sweep is not None else ()
    from lorakit.io.endings import ADAPTER, MERGED_MODEL, PAGE
    from lorakit.io.files import check_targets
    from lorakit.io.paths import check_adapters
    from lorakit.models.places import check_names
    from lorakit.models.vae import check_vae

    check_adapters(adapters)
    check_names(into, base)
    check_vae(vae)
    kind = ADAPTER if into is None else MERGED_MODEL
    kind.check(Path(output))
    check_targets([(None if alphas else output, kind), (report, PAGE)], force=manner.force)
    from lorakit.runtime.workers import one_thread_each

    one_thread_each()
    from lorakit.jobs.merge import Into, MergeChoices, run

    target = None
    if into is not None:
        folder = Path(tokenizer) if tokenizer is not None else None
        target = Into(
            model=into,
            dtype=save_dtype,
            stochastic_rounding=stochastic_rounding,
            seed=seed or 0,
            tokenizer=folder,
            of_model=of_model,
            cut_inputs=cut_inputs,
            vae=vae,
        )

    settings = {"density": density, "spread": spread, "conflict": conflict, "seed": seed}
    choices = MergeChoices(
        settings={name: value for name, value in settings.items() if value is not None},
        parts=part_weights or (),
        blocks=block_weights or (),
        sweep=alphas,
        rename=rename_token or (),
        allow_unmatched=allow_unmatched,
        base=base,
        report=Path(report) if report else None,
        verbose=manner.verbose,
    )
    with progress("merging") as talk:
        result = run(
            adapters,
            Path(output),
            alpha=alpha,
            weights=weights,
            method=method,
            rank=rule,
            file_format=format,
            dtype=save_dtype or "float32",
            force=manner.force,
            dry_run=manner.dry_run,
            talk=talk,
            choices=choices,
            into=target,
        )
    emit(result)


def _series(text: str) -> list[float]:
    """ "0:1:5" as 0, 0.25, 0.5, 0.75, 1."""
    try:
        first, last, count = text.split(":")
        begin, end, steps = float(first), float(last), int(count)
    except ValueError:
        begin, end, steps = math.nan, 0.0, 0
    if not (math.isfinite(begin) and math.isfinite(end)) or not 2 <= steps <= 1000:
        raise UsageError(f"--sweep {text}: expected FROM:TO:COUNT, such as 0:1:5, with a count from 2 to 1000")
    return [begin + (end - begin) * i / (steps - 1) for i in range(steps)]


def register(app: typer.Typer) -> None:
    command(app, "merge")(merge)
