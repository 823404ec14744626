"""`lorakit demo`"""

from pathlib import Path
from typing import Annotated

import typer

from lorakit.cli.command import command
from lorakit.cli.manner import Manner
from lorakit.cli.options import Seed, check_text
from lorakit.cli.output import emit, progress


def demo(
    manner: Manner,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder of everything the tour makes.")],
    photos: Annotated[str | None, typer.Option(metavar="DIR", help="Learn these photographs instead.")] = None,
    word: Annotated[str, typer.Option(help="What the photographs show, such as dog.")] = "animal",
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each adapter.")] = 400,
    seed: Seed = 0,
) -> None:
    """The whole tour offline, on the built-in model: prepare, train, draw, merge, and a page to look at."""
    check_text(word=word)
    from lorakit.io.endings import FOLDER

    FOLDER.check(Path(out))
    from lorakit.jobs.demo import run

    with progress("demo") as talk:
        result = run(
            Path(out),
            photos=Path(photos) if photos else None,
            word=word,
            steps=steps,
            seed=seed,
            force=manner.force,
            dry_run=manner.dry_run,
            talk=talk,
        )
    emit(result)


def register(app: typer.Typer) -> None:
    command(app, "demo")(demo)
