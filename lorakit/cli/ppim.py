"""`lorakit ppim`"""

from pathlib import Path
from typing import Annotated

import typer

from lorakit.cli.command import Manner, command
from lorakit.cli.options import Model, one_of, size_of
from lorakit.cli.output import emit, note, progress
from lorakit.errors import UsageError
from lorakit.registry import CAPTIONERS


def ppim(
    manner: Manner,
    raw: Annotated[str, typer.Argument(metavar="RAW", help="Folder of pictures; nothing in it is changed.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Folder of the training set.")],
    model: Model = "tiny",
    size: Annotated[str | None, typer.Option(metavar="N|WxH", help="Pixels; default, the model's own.")] = None,
    crop: Annotated[str, typer.Option(metavar="center|bucket|pad", help="How pictures are cut to size.")] = "center",
    caption: Annotated[str, typer.Option(metavar="none|filename|keep", help="Where captions come from.")] = "none",
    caption_template: Annotated[str, typer.Option(help='Such as "a photo of {token}, {caption}".')] = "",
    token: Annotated[str, typer.Option(help="The word for the subject in the template.")] = "",
    min_size: Annotated[int, typer.Option(min=1, help="Refuse pictures with a shorter side.")] = 1,
    dedup: Annotated[str, typer.Option(metavar="on|off", help="Leave out pictures with the same bytes.")] = "on",
    image_format: Annotated[str, typer.Option(metavar="png|jpg|webp", help="Files to write.")] = "png",
    strict: Annotated[bool, typer.Option("--strict", help="End with an error if any picture cannot be used.")] = False,
) -> None:
    """Prepare a folder of pictures as a training set."""
    one_of("--crop", crop, ("center", "bucket", "pad"), planned=("random", "smart", "face"))
    one_of("--caption", caption, tuple(CAPTIONERS.names()), planned=("blip", "clip"))
    one_of("--dedup", dedup, ("on", "off"))
    one_of("--image-format", image_format, ("png", "jpg", "webp"))
    asked = size_of(size)
    if crop == "bucket" and asked and asked[0] != asked[1]:
        raise UsageError(f"--size {size}: buckets take one number")
    from lorakit.jobs.ppim import Settings, run
    from lorakit.models.config import native_size

    side, multiple = native_size(model)
    template = caption_template or ("{token} {caption}" if token else "")
    settings = Settings(
        asked or (side, side), multiple, crop, caption, template, token, image_format, min_size, dedup == "on"
    )
    with progress("preparing") as tick:
        result = run(
            Path(raw),
            Path(data),
            settings,
            force=manner.force,
            strict=strict,
            dry_run=manner.dry_run,
            tick=tick,
            note=note,
        )
    emit(result)


def register(app: typer.Typer) -> None:
    command(app, "ppim")(ppim)
