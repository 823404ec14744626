"""`lorakit inspect`"""

from pathlib import Path
from typing import Annotated

import typer

from lorakit.cli.command import command
from lorakit.cli.manner import Manner
from lorakit.cli.output import emit, note, report
from lorakit.errors import UsageError


def inspect(
    manner: Manner,
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Adapters, embeddings, base models; files or folders.")
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the tensors with the hash that the metadata records.")
    ] = False,
    similarity: Annotated[
        bool, typer.Option("--similarity", help="How alike adapters are, by block: which will fight.")
    ] = False,
    report_file: Annotated[
        str | None, typer.Option("--report", metavar="FILE.html", help="A page of the similarities.")
    ] = None,
) -> None:
    """Say what a file is: format, family, ranks, norms by block, tokens, and what each client makes of it."""
    if report_file is not None and not similarity:
        raise UsageError("--report is a page of similarities: add --similarity")
    if similarity and (verify or len(files) < 2):
        raise UsageError(f"--similarity compares two adapters or more{', and does not verify' if verify else ''}")
    from lorakit.io.endings import PAGE
    from lorakit.io.inputs import check_inputs

    if report_file is not None:
        PAGE.check(Path(report_file))
    check_inputs(files, "file")
    for option, given in (("--force", manner.force), ("--dry-run", manner.dry_run)):
        if given and report_file is None:
            note(f"{option} makes no difference here: inspect writes nothing without --report")
    from lorakit.runtime.workers import one_thread_each

    one_thread_each()
    paths = [Path(file) for file in files]
    if similarity:
        from lorakit.jobs.inspect.similarity import run as compared
        from lorakit.reports.similarity import lines as table

        target = Path(report_file) if report_file is not None else None
        result = compared(paths, report=target, force=manner.force, dry_run=manner.dry_run, note=note)
        if not manner.json_output:
            report(table(result["similarity"]))
        emit(result)
        return
    from lorakit.jobs.inspect import run
    from lorakit.reports.inspected import lines

    result = run(paths, verify=verify, note=note)
    if not manner.json_output:
        for one in result["files"]:
            report(lines(one, verbose=manner.verbose))
    else:
        emit(result)


def register(app: typer.Typer) -> None:
    command(app, "inspect")(inspect)
