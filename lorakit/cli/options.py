"""Options that several commands have, as types; and their checks that need no import."""

from typing import Annotated, Any

import typer

from lorakit import bounds
from lorakit.errors import UsageError
from lorakit.fields import option
from lorakit.process_config import KINDS
from lorakit.schedulers import SCHEDULERS, SPACINGS

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="tiny (built in), sd15, sd21, sdxl, a hub id, a folder or a checkpoint file.",
    ),
]
PredictionType = Annotated[
    str | None, typer.Option(metavar="|".join(KINDS), help="What the model predicts, whatever it says of itself.")
]
ZeroSnr = Annotated[
    bool | None,
    typer.Option("--zero-snr/--no-zero-snr", help="Whether its noise ends in zero terminal SNR, whatever it says."),
]
Shift = Annotated[float | None, typer.Option(help="Of a rectified flow, whatever the model says.")]
Tokenizer = Annotated[str | None, typer.Option(metavar="FOLDER", help="Tokenizer of a single-file model.")]
Vae = Annotated[
    str | None, typer.Option(metavar="NAME", help="Another autoencoder than the model's: a hub id, a folder or a file.")
]
Output = Annotated[str, typer.Option("--output", "-o", metavar="PATH", help="Where to write.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same result.")]
Rank = Annotated[int | None, typer.Option(min=1, help="Rank of the factors.")]
Format = Annotated[str, typer.Option(metavar="kohya|comfy|diffusers|lorakit", help="File format of the adapter.")]
CutInputs = Annotated[
    bool,
    typer.Option(
        "--cut-inputs", help="Apply an inpainting adapter to a model that is none, without its mask and masked picture."
    ),
]
OwnFormat = Annotated[
    str | None,
    typer.Option(
        metavar="kohya|comfy|diffusers|lorakit",
        help="File format; default kohya, and for Flux and other models that lorakit does not draw with the adapters' own.",
    ),
]
Schedule = Annotated[
    list[str] | None,
    typer.Option(metavar="[NAME=]CURVE", help="Weight over the denoising: 0@0,1@0.4,0.2@1, or an expression of t."),
]
BlockWeights = Annotated[
    list[str] | None,
    typer.Option(metavar="[NAME=]BLOCK=W,...", help="down=0,mid=0.5,up.1=1; or NAME=PRESET, or NAME=1,0,..."),
]
PartWeights = Annotated[
    list[str] | None, typer.Option(metavar="[NAME=]PART=W", help="unet, text_encoder, text_encoder_2: a factor of it.")
]
Switch = Annotated[str | None, typer.Option(metavar="every:N", help="Adapters take turns, N steps each.")]
Composite = Annotated[bool, typer.Option("--composite", help="A forward for each adapter, averaged.")]
Region = Annotated[list[str] | None, typer.Option(metavar="NAME=MASK[:FEATHER]", help="Where an adapter acts: white.")]
Scheduler = Annotated[str, typer.Option(metavar="|".join(SCHEDULERS), help="Sampling scheduler.")]
Spacing = Annotated[
    str | None, typer.Option(metavar="|".join(SPACINGS), help="How the steps are spaced; default, as the model says.")
]
ADAPTER_FILES = ("kohya", "comfy", "diffusers", "lorakit")


def one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    """`value` if it is known, else an error with the nearest."""
    from lorakit.registry import nearest

    if value in known:
        return value
    raise UsageError(f"{name}: no '{value}'{nearest(value, known)} (there are: {', '.join(known)})")


def check_sampling(scheduler: str, spacing: str | None) -> None:
    """UsageError for a scheduler or a spacing that there is not, or that do not go together whatever the model is."""
    kind = SCHEDULERS[one_of("--scheduler", scheduler, tuple(SCHEDULERS))]
    if spacing is None:
        return
    one_of("--spacing", spacing, tuple(SPACINGS))
    flow = kind.flow.spacings if kind.flow else ()
    if spacing not in (*kind.betas.spacings, *flow):
        has = f"it has {', '.join(kind.betas.spacings) or 'none'}"
        has += f", over a rectified flow {', '.join(flow)}" if flow else ""
        raise UsageError(f"--spacing {spacing}: --scheduler {scheduler} cannot space its steps so; {has}")


def check_text(**options: Any) -> None:
    """UsageError that names the options whose text is not UTF-8; paths may be of any bytes and do not come here."""
    from lorakit.naming import is_text

    texts = {name: [value] if isinstance(value, str) else value for name, value in options.items()}
    wrong = [name for name, many in texts.items() if isinstance(many, list) and not all(map(is_text, many))]
    if wrong:
        raise UsageError(f"not UTF-8 text: {', '.join(option(name) for name in wrong)}")


def size_of(text: str | None) -> tuple[int, int] | None:
    """`512` or `640x512` (width x height) as (width, height)."""
    try:
        return None if text is None else bounds.size_of(text)
    except ValueError as error:
        raise UsageError(f"--size {text}: {error}") from None
