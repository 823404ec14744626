"""`lorakit convert`"""

from pathlib import Path
from typing import Annotated

import typer

from lorakit.cli.command import command
from lorakit.cli.manner import Manner
from lorakit.cli.options import one_of
from lorakit.cli.output import emit, progress
from lorakit.dtypes import FLOATS
from lorakit.errors import UsageError
from lorakit.registry import ADAPTER_FORMATS

WRITTEN = (
    "kohya",
    "comfy",
    "diffusers",
    "peft",
    "cloneofsimo",
    "lorakit",
    "a1111-embedding",
    "diffusers-embedding",
    "comfy-embedding",
)
# What people call a format, to what it is called here.
_MEANT = {
    **dict.fromkeys(("a1111", "webui", "forge", "sd-scripts", "kohya-ss", "kohya_ss", "civitai"), "kohya"),
    **dict.fromkeys(("comfyui", "diffusion_model", "original", "bfl", "sgm"), "comfy"),
    "huggingface": "diffusers",
    "hf": "diffusers",
    "lora": "kohya",
    "safetensors": "kohya",
    "safeloras": "cloneofsimo",
    **dict.fromkeys(("embedding", "ti", "textual-inversion", "a1111_embedding"), "a1111-embedding"),
}
_DTYPES = {"keep": None, **FLOATS}


def convert(
    manner: Manner,
    source: Annotated[
        str, typer.Argument(metavar="IN", help="An adapter or embedding of any format; a file or a folder.")
    ],
    output: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help="Where to write: a .safetensors file; for a1111-embedding also .pt, for peft a folder."
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="kohya, comfy, diffusers, peft, cloneofsimo, lorakit, or a1111-, diffusers- or comfy-embedding.",
        ),
    ] = "kohya",
    save_dtype: Annotated[str, typer.Option(metavar="|".join(_DTYPES), help="Type of the tensors.")] = "keep",
    universal: Annotated[
        bool,
        typer.Option(
            "--universal", help="Rewrite a file that is in the format already, so that every client reads it."
        ),
    ] = False,
    approximate: Annotated[
        str | None, typer.Option(metavar="N|exact", help="Turn other kinds (LoHa, DoRA ...) into plain LoRA of rank N.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Base weights, for kinds that depend on them.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", help="Take module shapes from this model.")
    ] = None,
    token: Annotated[str | None, typer.Option(metavar="NAME", help="A new name for the learned token.")] = None,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Leave out, and list, what the format cannot hold.")
    ] = False,
) -> None:
    """Convert an adapter or embedding to another format, and check what was written."""
    if to in ADAPTER_FORMATS.names() and to not in WRITTEN:
        raise UsageError(
            f"--to {to}: lorakit reads this format and does not write it (it writes: {', '.join(WRITTEN)})"
        )
    if to.lower() in _MEANT:
        raise UsageError(f"--to {to}: this format is called {_MEANT[to.lower()]} here: --to {_MEANT[to.lower()]}")
    one_of("--to", to, WRITTEN)
    one_of("--save-dtype", save_dtype, tuple(_DTYPES))
    if approximate is not None and approximate != "exact" and (not approximate.isdigit() or int(approximate) < 1):
        raise UsageError(f"--approximate {approximate}: expected a rank from 1, or exact")
    from lorakit.io.endings import of_format
    from lorakit.io.files import check_target
    from lorakit.io.inputs import check_inputs
    from lorakit.models.places import check_names

    check_inputs([source], "adapter")
    check_names(base, model)
    check_target(Path(output), of_format(to), force=manner.force)
    from lorakit.runtime.workers import one_thread_each

    one_thread_each()
    from lorakit.jobs.convert import ConversionChanges, run

    rank = int(approximate) if approximate is not None and approximate.isdigit() else approximate
    changes = ConversionChanges(
        dtype=_DTYPES[save_dtype], approximate=rank, universal=universal, token=token, allow_loss=allow_loss
    )
    with progress("checking") as talk:
        result = run(
            Path(source),
            Path(output),
            to,
            changes=changes,
            base=base,
            model=model,
            force=manner.force,
            dry_run=manner.dry_run,
            talk=talk,
        )
    emit(result)


def register(app: typer.Typer) -> None:
    command(app, "convert")(convert)
