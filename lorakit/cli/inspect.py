"""`lorakit inspect`"""

from pathlib import Path
from typing import Annotated

import typer

from lorakit.cli.command import Manner, command
from lorakit.cli.output import emit, note, report
from lorakit.errors import InputError


def inspect(
    manner: Manner,
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Adapters, embeddings, base models; files or folders.")
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the tensors with the hash that the metadata records.")
    ] = False,
) -> None:
    """Say what a file is: format, family, ranks, norms by block, tokens, and what each client makes of it."""
    missing = [file for file in files if not Path(file).exists()]
    if missing:
        raise InputError(f"no such file: {', '.join(missing)}")
    from lorakit.runtime.workers import one_thread_each

    one_thread_each()
    from lorakit.jobs.inspect import run
    from lorakit.reports.inspected import lines

    result = run([Path(file) for file in files], verify=verify, note=note)
    if not manner.json_output:
        for one in result["files"]:
            report(lines(one, verbose=manner.verbose))
    else:
        emit(result)


def register(app: typer.Typer) -> None:
    command(app, "inspect")(inspect)
