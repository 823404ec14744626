"""`lorakit extract`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorakit.cli.command import command
from lorakit.cli.manner import Manner
from lorakit.cli.options import ADAPTER_FILES, Output, OwnFormat, one_of
from lorakit.cli.output import emit, progress
from lorakit.dtypes import FLOATS
from lorakit.errors import UsageError
from lorakit.patterns import Pattern


def extract(
    manner: Manner,
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="Model, adapter, training checkpoint, or run folder.")],
    base: Annotated[str | None, typer.Option(metavar="MODEL", help="The model TUNED was made from.")] = None,
    rank: Annotated[
        str | None,
        typer.Option(metavar="N|full|auto|energy:X", help="Default 32; auto: what is above the files' rounding."),
    ] = None,
    energy: Annotated[
        float | None, typer.Option(help="Least rank a layer that keeps this share of the squared norm; --rank caps it.")
    ] = None,
    max_rank: Annotated[int | None, typer.Option(min=1, help="No module's rank is above this.")] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Ranks that fit a file of this size best, such as 50MB.")
    ] = None,
    conv_rank: Annotated[int | None, typer.Option(min=1, help="Rank of kernels larger than 1x1.")] = None,
    conv_tucker: Annotated[bool, typer.Option("--conv-tucker", help="Those kernels as up, core and down.")] = False,
    target: Annotated[
        str, typer.Option(metavar="all|attention|attention+ff|REGEX", help="Which modules, by their names.")
    ] = "all",
    parts: Annotated[
        str | None,
        typer.Option(
            metavar="PART,...", help="unet, text_encoder, text_encoder_2, tokens; of Flux and others, transformer."
        ),
    ] = None,
    clamp_quantile: Annotated[
        float | None,
        typer.Option(metavar="Q", help="Cut the factors' largest values, as sd-scripts does; costs accuracy."),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option("--fast/--exact", help="Random subspaces, proven to hold 99.9 % of the optimum, where they pay."),
    ] = True,
    keep_bias: Annotated[bool, typer.Option("--keep-bias", help="Changed biases and norms too.")] = False,
    report: Annotated[
        str | None, typer.Option(metavar="FILE.html", help="A page with a heat map and the singular values.")
    ] = None,
    output: Output = "./extracted.safetensors",
    format: OwnFormat = None,
    save_dtype: Annotated[str, typer.Option(metavar="|".join(FLOATS), help="Of the file.")] = "float32",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]", help="auto: a GPU where there is one.")] = "auto",
) -> None:
    """Extract a low-rank adapter: TUNED minus BASE, or the adapter inside a checkpoint."""
    if format is not None:
        one_of("--format", format, ADAPTER_FILES)
    one_of("--save-dtype", save_dtype, tuple(FLOATS))
    rule = _rule(rank, energy, max_rank, budget)
    if clamp_quantile is not None and not 0 < clamp_quantile <= 1:
        raise UsageError(f"--clamp-quantile {clamp_quantile:g}: expected a share above 0 and at most 1, such as 0.99")
    if budget is not None and (conv_tucker or clamp_quantile is not None):
        raise UsageError("--budget does not go with --conv-tucker or --clamp-quantile")
    try:
        Pattern(target)
    except ValueError as error:
        raise UsageError(f"--target {target}: not a regular expression: {error}") from error
    given = {
        "--conv-tucker": conv_tucker,
        "--clamp-quantile": clamp_quantile,
        "--keep-bias": keep_bias,
        "--exact": not fast,
    }
    alone = [name for name, value in given.items() if value and base is None]
    if alone:
        raise UsageError(f"{', '.join(alone)}: for two models, and no --base MODEL is given")
    from lorakit.io.endings import ADAPTER, PAGE
    from lorakit.io.files import check_targets
    from lorakit.models.places import check_names

    check_names(base, tuned if base is not None else None)
    check_targets([(output, ADAPTER), (report, PAGE)], force=manner.force)
    from lorakit.runtime.workers import one_thread_each

    one_thread_each()
    from lorakit.jobs.extract import run
    from lorakit.jobs.extract.choices import ExtractionChoices
    from lorakit.runtime.gpu import cpu_or_cuda

    chosen = tuple(part.strip() for part in (parts or "").split(",") if part.strip())
    where = cpu_or_cuda(device)
    choices = ExtractionChoices(
        rule=rule,
        conv_rank=conv_rank,
        conv_tucker=conv_tucker,
        target=target,
        parts=chosen,
        clamp_quantile=clamp_quantile,
        exact=not fast,
        keep_bias=keep_bias,
    )
    with progress("extracting") as talk:
        result = run(
            tuned,
            Path(output),
            base=base,
            choices=choices,
            file_format=format,
            dtype=save_dtype,
            device=where,
            report=Path(report) if report else None,
            force=manner.force,
            dry_run=manner.dry_run,
            talk=talk,
            verbose=manner.verbose,
        )
    emit(result)


def _rule(rank: str | None, energy: float | None, max_rank: int | None, budget: str | None):  # type: ignore[no-untyped-def]
    """The rank options as one rule, None where there are none; a number beside --energy caps it."""
    from dataclasses import replace

    from lorakit.cli import ranks

    if energy is not None:
        share = ranks.parse_share(str(energy), f"--energy {energy:g}")
        fixed = ranks.parse(rank) if rank is not None else None
        if budget is not None or (fixed is not None and fixed.kind != "fixed"):
            raise UsageError("--energy goes with --max-rank or a number as --rank, not with another rule")
        caps = [cap for cap in (max_rank, int(fixed.value) if fixed is not None else None) if cap is not None]
        return replace(ranks.parse(f"energy:{share}"), cap=min(caps) if caps else None)
    if rank is None and max_rank is None and budget is None:
        return None
    if rank is None and budget is None:
        return ranks.rule(str(max_rank))
    return ranks.rule(rank or "full", max_rank, budget)


def register(app: typer.Typer) -> None:
    command(app, "extract")(extract)
