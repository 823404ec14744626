"""`lorakit train`: its options are the fields of TrainConfig, and how the run lives."""

import inspect
import shlex
import typing
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lorakit.cli import recorded
from lorakit.cli.command import COMMON, COMPUTE, Command, command, source
from lorakit.cli.generated import config_of, signed
from lorakit.cli.manner import Manner
from lorakit.cli.options import ADAPTER_FILES, check_text, one_of
from lorakit.cli.output import emit, note, progress, report
from lorakit.cli.settings import long_name
from lorakit.config import Recorded, TrainConfig
from lorakit.dtypes import FLOATS
from lorakit.effects import refuse_idle
from lorakit.errors import UsageError
from lorakit.fields import declared
from lorakit.registry import OPTIMIZERS, TRACKERS


def train(
    manner: Manner,
    ctx: typer.Context,
    data: Annotated[str, typer.Argument(metavar="[DATA]", help="Training set.")] = "./data",
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Default ./lora.safetensors, ./embedding.safetensors or ./model."),
    ] = None,
    format: Annotated[
        str, typer.Option(metavar="|".join(ADAPTER_FILES), help="File format of the adapter."), Recorded.ANY
    ] = "kohya",
    save_dtype: Annotated[
        str, typer.Option(metavar="|".join(FLOATS), help="Numbers of the output."), Recorded.ANY
    ] = "float32",
    run_dir: Annotated[str | None, typer.Option(help="Log and checkpoints; default OUTPUT.run.")] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 100,
    keep: Annotated[int, typer.Option(min=1, help="Checkpoints to keep.")] = 2,
    resume: Annotated[str, typer.Option(metavar="auto|PATH|never", help="Go on with an interrupted run.")] = "auto",
    validate_every: Annotated[
        int, typer.Option(min=0, help="Steps between held-out losses; 0, never."), Recorded.ANY
    ] = 0,
    early_stop: Annotated[
        int, typer.Option(min=0, help="End after so many validations without a better one."), Recorded.ANY
    ] = 0,
    preview_prompt: Annotated[list[str] | None, typer.Option(help="What to draw as it goes; repeatable.")] = None,
    preview_every: Annotated[int, typer.Option(min=0, help="Steps between previews; 0, never.")] = 0,
    track: Annotated[
        list[str] | None, typer.Option(metavar="none|tensorboard|wandb", help="Where to follow it; repeatable.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what the run would take, measured, and stop.")] = False,
    show_targets: Annotated[bool, typer.Option("--show-targets", help="List what would be trained and stop.")] = False,
    replay: Annotated[str | None, typer.Option(metavar="BUNDLE", help="Look again at a step that went wrong.")] = None,
    device: str = "auto",
    dtype: str = "auto",
    **options: Any,
) -> None:
    """Train an adapter, new words, or a whole model on a folder of pictures."""
    one_of("--format", format, ADAPTER_FILES)
    one_of("--save-dtype", save_dtype, tuple(FLOATS))
    tracked = [one_of("--track", name, ("none", *TRACKERS.names())) for name in track or ()]
    config, given = config_of(TrainConfig, options), {name: source(ctx, name) for name in ctx.params}
    refuse_idle(config.idle(given) | _idle(config, validate_every, early_stop, given), given, note)
    if not validate_every:
        config = replace(config, validation_split=0.0)
    check_text(**{name: value for name, value in options.items() if name not in _PATHS})
    if format == "diffusers" and (config.mode == "pivotal" or len(config.token) > 1):
        raise UsageError("--format diffusers holds no learned tokens beside an adapter; use kohya or lorakit")
    if validate_every and not config.validation_split:
        raise UsageError("--validate-every needs pictures to hold out, such as --validation-split 0.1")
    if preview_every and not preview_prompt:
        raise UsageError("--preview-every needs --preview-prompt")
    from lorakit.io.endings import FOLDER, of_mode
    from lorakit.io.files import check_target
    from lorakit.io.inputs import existing_folder
    from lorakit.models.places import check_name
    from lorakit.models.vae import check_vae

    check_name(config.model)
    check_vae(config.vae)
    existing_folder(data, "training pictures")  # told before torch loads
    target = Path(output or _FILE.get(config.mode, "lora.safetensors"))
    looks_only = plan or show_targets or replay is not None
    kind = of_mode(config.mode)
    kind.check(target)
    if run_dir:
        FOLDER.check(Path(run_dir))
    if not looks_only:
        check_target(target, kind, force=manner.force)
    from lorakit.jobs.train import RunOptions, run

    folder = Path(run_dir) if run_dir else target.with_suffix(".run")
    life = RunOptions(
        output=target,
        run_folder=folder,
        file_format=format,
        save_dtype=save_dtype,
        device=device,
        dtype=dtype,
        checkpoint_every=checkpoint_every,
        keep=keep,
        resume=resume,
        force=manner.force,
        dry_run=manner.dry_run,
        plan=plan,
        show_targets=show_targets,
        replay=Path(replay) if replay else None,
        validate_every=validate_every,
        early_stop=early_stop,
        preview_prompts=preview_prompt or (),
        preview_every=preview_every or (max(1, config.suited().total // 4) if preview_prompt else 0),
        track=[name for name in tracked if name != "none"],
        sources=_sources(ctx),
        given=given,
    )
    with progress("training") as talk:
        result = run(Path(data), config, life, talk)
    if result is None:
        return
    if show_targets and not manner.json_output:
        report(_table(result["targets"]))
    emit(result)


def _idle(config: TrainConfig, validate_every: int, early_stop: int, given: Mapping[str, str]) -> dict[str, str]:
    """Options beside the config that were given and that the run makes no use of, and what to say of each."""
    found = {}
    if config.mode == "full" and given["format"] == "option":
        found["format"] = (
            "--format has an effect only in modes that write adapters or tokens; --output says what full writes"
        )
    if config.validation_split and not validate_every:
        found["validation_split"] = (
            "--validation-split holds out pictures that nothing looks at; add --validate-every N"
        )
    if early_stop and not validate_every:
        found["early_stop"] = (
            "--early-stop counts validations, and there are none; add --validate-every N and --validation-split 0.1"
        )
    return found


class _Train(Command):
    def chosen(self, values: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
        return config_of(TrainConfig, values).chosen()

    def read_recorded(self, ctx: Any, file: Path) -> dict[str, Any]:
        ctx.meta[_RUN] = run = recorded.read(file, self.params)
        return {name: value for name, value in run.values.items() if value is not None and _is_taken_over(name, value)}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        if _RUN in ctx.meta:
            self._tell_left_out(ctx, ctx.meta[_RUN])
        return rest

    def _tell_left_out(self, ctx: Any, run: recorded.RecordedRun) -> None:
        """UsageError for recorded options that make another run where they are missing and that the user has not said;
        a note of the others that are not taken over."""
        own = {field.name for field in fields(TrainConfig)}
        needed, left = [], []
        parameters: list[Any] = self.params
        for parameter in parameters:
            value = run.values.get(parameter.name)
            if value in (None, [], parameter.default) or _is_taken_over(parameter.name, value):
                continue
            if parameter.name not in own:
                left.append(f"--{long_name(parameter)}")
            elif source(ctx, parameter.name) not in ("option", "environment"):
                needed.append(f"--{long_name(parameter)} {shlex.quote(str(value))}")
        if needed:
            raise UsageError(
                f"--config {run.file}: its run had {' '.join(needed)}; paths, hub ids and code are not taken from a file's "
                "metadata: give these options again, or others"
            )
        if left:
            self.note(ctx, f"not taken from the metadata of {run.file}: {', '.join(left)}")


def _is_taken_over(name: str, value: Any) -> bool:
    """Whether an option's recorded value is taken over by `--config ADAPTER`."""
    field = declared(TrainConfig).get(name)
    if field is not None:
        marks = field.marks if _is_text(field.kind) else (Recorded.ANY,)
    else:
        own = {parameter.name: parameter.annotation for parameter in inspect.signature(train).parameters.values()}
        marks = {**own, **COMMON, **COMPUTE}[name].__metadata__
    if Recorded.NAME not in marks:
        return Recorded.ANY in marks
    from lorakit.models.places import ALIASES

    return value in {"model": ("tiny", *ALIASES), "optimizer": OPTIMIZERS.names()}[name]


def _is_text(kind: Any) -> bool:
    return kind is str or any(_is_text(inner) for inner in typing.get_args(kind))


def _sources(ctx: typer.Context) -> dict[str, str]:
    """Where each option's value came from. A value that a recorded run had too comes from where that run had it from, so
    that running it again gives the same bytes."""
    run: recorded.RecordedRun | None = ctx.meta.get(_RUN)
    found = {}
    for name, value in ctx.params.items():
        same = run is not None and name in run.values and _plain(run.values[name]) == _plain(value)
        found[name] = run.sources.get(name, source(ctx, name)) if run and same else source(ctx, name)
    return found


def _plain(value: Any) -> Any:
    return list(value or ()) if isinstance(value, list | tuple) or value is None else value


_RUN = "lorakit.recorded_run"
_PATHS = {"model", "tokenizer", "vae", "prior_dir", "init_from"}
_FILE = {"ti": "embedding.safetensors", "full": "model"}


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows of equal keys as lines of text, columns aligned."""
    head = [*rows[0]] if rows else []
    cells = [head, *([str(row[key]) for key in head] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def register(app: typer.Typer) -> None:
    command(app, "train", compute=True, cls=_Train)(signed(train, TrainConfig))
