"""`lorakit compose`"""

from pathlib import Path
from typing import Annotated

import typer

from lorakit.cli.command import Manner, command
from lorakit.cli.options import Output
from lorakit.cli.output import emit, note


def compose(
    manner: Manner,
    adapters: Annotated[list[str], typer.Argument(metavar="PATH[:WEIGHT]...", help="Adapters or recipes.")],
    output: Output = "./recipe.toml",
) -> None:
    """Write a composition of adapters as a recipe that sample, merge and compose read."""
    from lorakit.jobs.compose import run

    emit(run(adapters, Path(output), force=manner.force, dry_run=manner.dry_run, note=note))


def register(app: typer.Typer) -> None:
    command(app, "compose")(compose)
