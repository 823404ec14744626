"""`lorakit ppim`"""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from lorakit.cli.command import command
from lorakit.cli.manner import Manner
from lorakit.cli.options import Model, Seed, check_text, one_of, size_of
from lorakit.cli.output import emit, progress
from lorakit.errors import UsageError
from lorakit.registry import AUGMENTS, CAPTIONERS, CROPS, MASKS
from lorakit.runtime.signals import telling

_COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128), "gray": (128, 128, 128)}


def _colour(text: str) -> tuple[int, int, int]:
    if text.lower() in _COLOURS:
        return _COLOURS[text.lower()]
    if not re.fullmatch(r"#?[0-9a-fA-F]{6}", text):
        raise UsageError(f"--background {text}: expected white, black, grey or a colour such as #a0c0ff")
    red, green, blue = bytes.fromhex(text.lstrip("#"))
    return red, green, blue


def _augments(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        AUGMENTS.check(name)
    return tuple(sorted(set(names)))


def _pairs(given: list[str] | None) -> tuple[tuple[str, str], ...]:
    pairs = []
    for text in given or ():
        old, equals, new = text.partition("=")
        if not equals or not old.strip():
            raise UsageError(f"--caption-replace {text}: expected OLD=NEW")
        pairs.append((old.strip(), new.strip()))
    return tuple(pairs)


def ppim(
    manner: Manner,
    raw: Annotated[str, typer.Argument(metavar="RAW", help="Folder of pictures; nothing in it is changed.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Folder of the training set.")],
    model: Model = "tiny",
    size: Annotated[str | None, typer.Option(metavar="N|WxH", help="Pixels; default, the model's own.")] = None,
    crop: Annotated[
        str, typer.Option(metavar="center|random|smart|face|bucket|pad", help="How pictures are cut to size.")
    ] = "center",
    upscale: Annotated[
        str, typer.Option(metavar="none|lanczos|swin2sr", help="How pictures that are too small grow.")
    ] = "none",
    upscale_model: Annotated[str, typer.Option(metavar="NAME", help="Hub id or folder of the Swin2SR model.")] = "",
    augment: Annotated[
        str, typer.Option(metavar="flip,rotate,color,zoom", help="Changes of the copies, or of the one picture.")
    ] = "",
    copies: Annotated[int, typer.Option(min=1, max=100, help="Files of each picture; the first is unchanged.")] = 1,
    caption: Annotated[
        str, typer.Option(metavar="none|blip|clip|tagger|filename|keep", help="Where captions come from.")
    ] = "none",
    caption_model: Annotated[str, typer.Option(metavar="NAME", help="Hub id or folder of the captioning model.")] = "",
    caption_template: Annotated[str, typer.Option(help='Such as "a photo of {token}, {caption}".')] = "",
    token: Annotated[str, typer.Option(help="The word for the subject in the template.")] = "",
    caption_replace: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help='Words of captions by others, such as "a dog={token}".')
    ] = None,
    caption_clean: Annotated[bool, typer.Option(help="Take the tics of captioning models out.")] = True,
    caption_vocabulary: Annotated[
        str, typer.Option(metavar="FILE", help="Phrases that --caption clip chooses from.")
    ] = "",
    caption_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Least probability of a tag (--caption tagger).")
    ] = 0.35,
    caption_encoding: Annotated[str, typer.Option(metavar="NAME", help="Coding of sidecars that are not UTF-8.")] = "",
    mask: Annotated[str, typer.Option(metavar="none|subject|face", help="Masks for a masked loss.")] = "none",
    mask_prompt: Annotated[str, typer.Option(help="Words for the subject; without them, GrabCut finds it.")] = "",
    mask_model: Annotated[str, typer.Option(metavar="NAME", help="Hub id or folder of the CLIPSeg model.")] = "",
    min_size: Annotated[int, typer.Option(min=1, help="Refuse pictures with a shorter side.")] = 1,
    min_sharpness: Annotated[float, typer.Option(min=0, help="Refuse blurred pictures; try 20.")] = 0.0,
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse larger ones as decompression bombs.")] = 89_478_485,
    first_frame: Annotated[bool, typer.Option("--first-frame", help="Take the first picture of animations.")] = False,
    background: Annotated[str, typer.Option(metavar="COLOUR", help="Under transparent parts and borders.")] = "white",
    dedup: Annotated[str, typer.Option(metavar="on|off", help="Leave out pictures that are there twice.")] = "on",
    image_format: Annotated[str, typer.Option(metavar="png|jpg|webp", help="Files to write.")] = "png",
    contact_sheet: Annotated[bool, typer.Option("--contact-sheet", help="Write contact-sheet.png as well.")] = False,
    edit: Annotated[bool, typer.Option("--edit", help="Open all captions in $EDITOR and read them back.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove pictures whose source is gone.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="End with an error if any picture cannot be used.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a model sees at once.")] = 8,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read pictures; 0, one a core.")] = 0,
    seed: Seed = 0,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Prepare a folder of pictures as a training set."""
    one_of("--crop", crop, tuple(CROPS.names()))
    one_of("--caption", caption, tuple(CAPTIONERS.names()))
    one_of("--mask", mask, ("none", *MASKS.names()))
    one_of("--upscale", upscale, ("none", "lanczos", "swin2sr"))
    one_of("--dedup", dedup, ("on", "off"))
    one_of("--image-format", image_format, ("png", "jpg", "webp"))
    asked, changes, colour, pairs = size_of(size), _augments(augment), _colour(background), _pairs(caption_replace)
    if crop == "bucket" and asked and asked[0] != asked[1]:
        raise UsageError(f"--size {size}: buckets take one number")
    if copies > 1 and not changes:
        raise UsageError(f"--copies {copies} needs --augment, such as --augment flip,color; equal copies teach nothing")
    check_text(token=token, caption_template=caption_template, caption_replace=caption_replace, mask_prompt=mask_prompt)
    template = caption_template or ("{token} {caption}" if token else "")
    if "{token}" in template and not token:
        raise UsageError(f"--caption-template {template!r} needs --token")
    options: dict[str, Any] = {
        "crop": crop,
        "caption": caption,
        "template": template,
        "token": token,
        "image_format": image_format,
        "min_size": min_size,
        "dedup": dedup == "on",
        "augments": changes,
        "copies": copies,
        "seed": seed,
        "min_sharpness": min_sharpness,
        "upscale": upscale,
        "background": colour,
        "max_pixels": max_pixels,
        "first_frame": first_frame,
        "base_model": model,
        "caption_model": caption_model,
        "caption_clean": caption_clean,
        "caption_replace": tuple((old, new.replace("{token}", token)) for old, new in pairs),
        "caption_vocabulary": caption_vocabulary,
        "caption_threshold": caption_threshold,
        "caption_encoding": caption_encoding,
        "mask": mask,
        "mask_prompt": mask_prompt,
        "mask_model": mask_model,
        "upscale_model": upscale_model,
        "device": device,
        "dtype": dtype,
        "batch_size": batch_size,
        "workers": workers,
        "prune": prune,
        "contact_sheet": contact_sheet,
        "edit": edit,
    }
    from lorakit.io.endings import FOLDER
    from lorakit.io.inputs import existing_file, existing_folder

    FOLDER.check(Path(data))
    existing_folder(raw, "pictures")
    if caption_vocabulary:
        existing_file(caption_vocabulary, "file of --caption-vocabulary")
    from lorakit.jobs.ppim import Settings, native, run

    side, multiple = native(model)
    settings = Settings(size=asked or (side, side), multiple=multiple, **options)

    def kept() -> str:
        return f"{talk.reached()} pictures are done in {data}; the same command goes on from there"

    with progress("preparing") as talk, telling(kept):
        result = run(
            Path(raw), Path(data), settings, force=manner.force, strict=strict, dry_run=manner.dry_run, talk=talk
        )
    emit(result)


def register(app: typer.Typer) -> None:
    command(app, "ppim", compute=True)(ppim)
