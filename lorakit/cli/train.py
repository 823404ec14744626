"""`lorakit train`: its options are the fields of TrainConfig, and how the run lives."""

import inspect
import typing
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from lorakit.cli.command import Manner, command
from lorakit.cli.options import ADAPTER_FILES, PLANNED_FILES, one_of
from lorakit.cli.output import emit, note, progress
from lorakit.config import TrainConfig
from lorakit.registry import MODES


def _options() -> list[inspect.Parameter]:
    """A keyword option for each field of TrainConfig: type, default and help are written there alone."""
    hints = typing.get_type_hints(TrainConfig, include_extras=True)
    options = []
    for field in fields(TrainConfig):
        kind, text = typing.get_args(hints[field.name])
        names = ["--model", "-m"] if field.name == "model" else []
        annotation = Annotated[kind, typer.Option(*names, help=text)]  # type: ignore[valid-type]
        options.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=field.default)
        )
    return options


def train(
    manner: Manner,
    data: Annotated[str, typer.Argument(metavar="[DATA]", help="Training set.")] = "./data",
    output: Annotated[str | None, typer.Option("--output", "-o", help="Default ./lora.safetensors.")] = None,
    format: Annotated[str, typer.Option(help="File format of the adapter.")] = "kohya",
    run_dir: Annotated[str | None, typer.Option(help="Log and checkpoints; default OUTPUT.run.")] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 100,
    keep: Annotated[int, typer.Option(min=1, help="Checkpoints to keep.")] = 2,
    resume: Annotated[str, typer.Option(metavar="auto|PATH|never", help="Go on with an interrupted run.")] = "auto",
    device: str = "auto",
    dtype: str = "auto",
    **options: Any,
) -> None:
    """Train an adapter (or the whole UNet) on a folder of pictures."""
    one_of("--mode", options["mode"], tuple(MODES.names()), planned=("ti", "pivotal"))
    one_of("--format", format, ADAPTER_FILES, PLANNED_FILES)
    config = TrainConfig(**options)
    target = Path(output or ("./model" if config.mode == "full" else "./lora.safetensors"))
    from lorakit.io.files import check_target, existing_folder

    existing_folder(data, "training pictures")  # told before torch loads
    check_target(target, force=manner.force, folder=config.mode == "full")
    from lorakit.jobs.train import Life, Talk, run

    folder = Path(run_dir) if run_dir else target.with_suffix(".run")
    life = Life(target, folder, format, device, dtype, checkpoint_every, keep, resume, manner.force, manner.dry_run)
    with progress("training") as tick:
        result = run(Path(data), config, life, Talk(tick, note))
    emit(result)


def register(app: typer.Typer) -> None:
    own = [p for p in inspect.signature(train, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    own = [p.replace(kind=p.KEYWORD_ONLY) if i else p for i, p in enumerate(own)]
    train.__signature__ = inspect.Signature([*own, *_options()])  # type: ignore[attr-defined]
    command(app, "train", compute=True)(train)
