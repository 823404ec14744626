"""`lorakit extract`"""

from pathlib import Path
from typing import Annotated

import typer

from lorakit.cli.command import Manner, command
from lorakit.cli.options import ADAPTER_FILES, PLANNED_FILES, Format, Output, Rank, one_of
from lorakit.cli.output import emit, note, progress


def extract(
    manner: Manner,
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="Model folder, adapter, or training checkpoint.")],
    base: Annotated[str | None, typer.Option(help="The model TUNED was made from.")] = None,
    rank: Rank = None,
    energy: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Least rank that keeps this share.")] = None,
    output: Output = "./extracted.safetensors",
    format: Format = "kohya",
) -> None:
    """Extract a low-rank adapter: TUNED minus BASE, or the adapter inside a checkpoint. Default rank 32."""
    one_of("--format", format, ADAPTER_FILES, PLANNED_FILES)
    from lorakit.jobs.extract import run

    with progress("extracting") as tick:
        result = run(
            tuned, Path(output), base=base, rank=rank, energy=energy, file_format=format, force=manner.force,
            dry_run=manner.dry_run, tick=tick, note=note,
        )  # fmt: skip
    emit(result)


def register(app: typer.Typer) -> None:
    command(app, "extract")(extract)
