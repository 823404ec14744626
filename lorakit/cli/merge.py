"""`lorakit merge`"""

from pathlib import Path
from typing import Annotated

import typer

from lorakit.cli.command import Manner, command
from lorakit.cli.options import ADAPTER_FILES, PLANNED_FILES, Format, Output, one_of
from lorakit.cli.output import emit, note, progress
from lorakit.errors import UsageError
from lorakit.registry import MERGE_METHODS


def merge(
    manner: Manner,
    adapters: Annotated[list[str], typer.Argument(metavar="PATH[:WEIGHT]...", help="Two or more adapters.")],
    alpha: Annotated[
        float | None, typer.Option(help="Two adapters: ALPHA of the first, 1-ALPHA of the second.")
    ] = None,
    weights: Annotated[str | None, typer.Option(metavar="W,W,...", help="A weight for each adapter.")] = None,
    method: Annotated[str, typer.Option(help="How deltas are joined.")] = "linear",
    rank: Annotated[str, typer.Option(metavar="N|full", help="Rank of the result; full is exact.")] = "full",
    output: Output = "./merged.safetensors",
    format: Format = "kohya",
    save_dtype: Annotated[str, typer.Option(metavar="float32|bfloat16|float16")] = "float32",
) -> None:
    """Merge adapters into one: the weighted sum of their deltas, exactly."""
    MERGE_METHODS.check(method)
    one_of("--format", format, ADAPTER_FILES, PLANNED_FILES)
    one_of("--save-dtype", save_dtype, ("float32", "bfloat16", "float16"))
    if len(adapters) < 2:
        raise UsageError("merge needs two adapters or more")
    if alpha is not None and (len(adapters) != 2 or weights is not None):
        raise UsageError("--alpha is for exactly two adapters, and without --weights")
    if rank != "full" and (not rank.isdigit() or int(rank) < 1):
        raise UsageError(f"--rank {rank}: expected a number from 1, or full")
    from lorakit.io.files import check_target
    from lorakit.io.paths import check_adapters

    check_adapters(adapters)
    check_target(Path(output), force=manner.force)
    from lorakit.io.tensors import DTYPES
    from lorakit.jobs.merge import run

    with progress("merging") as tick:
        result = run(
            adapters, Path(output), alpha=alpha, weights=weights, method=method, file_format=format,
            rank=None if rank == "full" else int(rank), dtype=DTYPES[save_dtype], force=manner.force,
            dry_run=manner.dry_run, tick=tick, note=note,
        )  # fmt: skip
    emit(result)


def register(app: typer.Typer) -> None:
    command(app, "merge")(merge)
