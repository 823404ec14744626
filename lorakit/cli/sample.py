"""`lorakit sample`"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lorakit.bounds import check_drawing
from lorakit.cli.command import command
from lorakit.cli.manner import Manner
from lorakit.cli.options import (
    BlockWeights,
    Composite,
    CutInputs,
    Model,
    Output,
    PartWeights,
    PredictionType,
    Region,
    Schedule,
    Scheduler,
    Seed,
    Shift,
    Spacing,
    Switch,
    Tokenizer,
    Vae,
    ZeroSnr,
    check_sampling,
    size_of,
)
from lorakit.cli.output import emit, line, note, progress, shower
from lorakit.errors import InputError, UsageError

Named = "NAME=..."


def sample(
    manner: Manner,
    ctx: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(metavar="[PROMPT]", help="What to draw; (word:1.2) weighs a word.")
    ] = None,
    more: Annotated[
        list[str] | None, typer.Argument(hidden=True, metavar="[AXIS]...", help="Further axes of --grid.")
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(metavar="PATH[:WEIGHT]", help="Adapter or recipe; repeatable.")
    ] = None,
    lora_dir: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where <lora:name:0.8> and embedding:name in prompts find their files."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(metavar="FILE", help="Composition made by `compose`.")] = None,
    output: Output = "./samples",
    model: Model = "tiny",
    tokenizer: Tokenizer = None,
    prediction_type: PredictionType = None,
    zero_snr: ZeroSnr = None,
    shift: Shift = None,
    vae: Vae = None,
    prompts: Annotated[
        str | None, typer.Option(metavar="FILE", help="Prompts, one a line, with options of their own; - is stdin.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="PICTURE", help="Draw a picture again from the text in its PNG.")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Pictures of each prompt.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 30,
    guidance: Annotated[float, typer.Option(min=0, help="Classifier-free guidance; 1 turns it off.")] = 7.5,
    guidance_schedule: Annotated[
        str | None, typer.Option(metavar="CURVE", help="Guidance over the denoising, such as 8@0,2@1.")
    ] = None,
    guidance_until: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the denoising after which there is none.")
    ] = 1.0,
    guidance_rescale: Annotated[float, typer.Option(min=0, max=1, help="Against overexposure; 0.7 is usual.")] = 0.0,
    negative: Annotated[str, typer.Option(help="What not to draw.")] = "",
    scheduler: Scheduler = "dpm++",
    spacing: Spacing = None,
    size: Annotated[str | None, typer.Option(metavar="N|WxH", help="Pixels; default, the model's own.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 8,
    image: Annotated[str | None, typer.Option(metavar="PICTURE", help="Start from this picture.")] = None,
    strength: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="How much of the denoising is done on --image. [default: 0.6; with --mask 1]"),
    ] = None,
    mask: Annotated[
        str | None, typer.Option(metavar="PICTURE", help="Draw anew what is white, keep what is black.")
    ] = None,
    hires: Annotated[float, typer.Option(min=1, help="Draw so many times larger in a second pass.")] = 1.0,
    hires_strength: Annotated[float, typer.Option(min=0, max=1, help="How much the second pass may change.")] = 0.5,
    clip_skip: Annotated[int, typer.Option(min=1, help="Layers from the text encoder's end; 1 is the model's.")] = 1,
    plain_prompts: Annotated[bool, typer.Option("--plain-prompts", help="Brackets in prompts are text.")] = False,
    cut_prompts: Annotated[
        bool, typer.Option("--cut-prompts", help="Leave out what is longer than the model reads.")
    ] = False,
    cut_inputs: CutInputs = False,
    vae_tiling: Annotated[bool, typer.Option("--vae-tiling", help="Large pictures in little memory.")] = False,
    schedule: Schedule = None,
    block_weights: BlockWeights = None,
    part_weights: PartWeights = None,
    switch: Switch = None,
    composite: Composite = False,
    region: Region = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="x:KEY=V,V y:KEY=V,V", help="A labelled grid: lora.weight, seed, steps, prompt ..."),
    ] = None,
    gif: Annotated[
        bool, typer.Option("--gif", help="The grid's pictures, or those of --save-steps, one after another.")
    ] = False,
    webp: Annotated[bool, typer.Option("--webp", help="The same as animated WebP.")] = False,
    mp4: Annotated[bool, typer.Option("--mp4", help="The same as a film: pip install 'lorakit[mp4]'.")] = False,
    frame_ms: Annotated[int, typer.Option(min=20, help="Milliseconds a picture of --gif, --webp, --mp4.")] = 400,
    save_steps: Annotated[bool, typer.Option("--save-steps", help="A strip of the denoising of each picture.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Show pictures in the terminal as they come.")] = False,
    keep_mb: Annotated[int | None, typer.Option(min=0, help="Memory for composed weights; default, one copy.")] = None,
    seed: Seed = 0,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Draw pictures, with adapters. Picture i depends on seed+i alone."""
    given, axes = _split([word for word in (prompt, *(more or ())) if word is not None], grid or [])
    check_sampling(scheduler, spacing)
    check_drawing(
        {
            "count": count,
            "seed": seed,
            "steps": steps,
            "guidance": guidance,
            "guidance_until": guidance_until,
            "rescale": guidance_rescale,
            "clip_skip": clip_skip,
            "strength": _strength(strength, image, mask),
            "hires": hires,
            "hires_strength": hires_strength,
        }
    )
    asked = size_of(size)
    sources = sum(x is not None for x in (given, prompts, source))
    if sources != 1:
        raise UsageError("give a PROMPT, --prompts FILE or --from PICTURE, one of the three")
    loras = [*(lora or ()), *([recipe] if recipe else ())]
    from lorakit.drawing.grid import read_axes
    from lorakit.drawing.request import Request, read_prompts
    from lorakit.io.endings import PICTURES
    from lorakit.io.paths import check_adapters
    from lorakit.models.places import check_name

    PICTURES.check(Path(output))
    check_adapters(loras)
    from lorakit.models.vae import check_vae

    check_name(model)
    check_vae(vae)
    lines = read_prompts(prompts) if prompts not in (None, "-") else []
    request = Request(
        prompts=[given or ""],
        count=count,
        seed=seed,
        negative=negative,
        model=model,
        size=asked,
        steps=steps,
        guidance=guidance,
        scheduler=scheduler,
        batch_size=batch_size,
        guidance_schedule=guidance_schedule,
        guidance_until=guidance_until,
        rescale=guidance_rescale,
        plain=plain_prompts,
        cut=cut_prompts,
        clip_skip=clip_skip,
        image=_path(image),
        strength=_strength(strength, image, mask),
        mask=_path(mask),
        hires=hires,
        hires_strength=hires_strength,
        dtype=dtype,
        tiling=vae_tiling,
        prediction_type=prediction_type,
        zero_snr=zero_snr,
        shift=shift,
        spacing=spacing,
        vae=vae,
        cut_inputs=cut_inputs,
    )
    found = read_axes(axes)
    from lorakit.drawing.composing import MemberChanges
    from lorakit.jobs.sample import Extras, run, serve

    changes = MemberChanges(
        schedules=schedule or (),
        blocks=block_weights or (),
        layers=(),
        parts=part_weights or (),
        regions=region or (),
        prompts=(),
        switch=switch,
        composite=composite,
    )
    composition = None
    if source is not None:
        request, composition = _again(ctx, request, source, loras, changes, lora_dir)
    extras = Extras(
        axes=found,
        moving=[kind for kind, on in (("gif", gif), ("webp", webp), ("mp4", mp4)) if on],
        frame=frame_ms,
        stages=save_steps,
        limit=None if keep_mb is None else keep_mb << 20,
        tokenizer=_path(tokenizer),
        show=shower() if show else None,
        lora_dir=lora_dir,
    )
    if prompts == "-":
        if found or Path(output).suffix.lower() == ".png":
            raise UsageError("--prompts - draws into a folder, without --grid")
        status = serve(
            request,
            Path(output),
            sys.stdin,
            loras=loras,
            device=device,
            force=manner.force,
            dry_run=manner.dry_run,
            note=note,
            each=line,
            changes=changes,
            extras=extras,
        )
        raise typer.Exit(status)
    with progress("drawing") as talk:
        result = run(
            request,
            Path(output),
            loras=loras,
            device=device,
            force=manner.force,
            dry_run=manner.dry_run,
            talk=talk,
            changes=changes,
            extras=extras,
            lines=lines,
            composition=composition,
        )
    emit(result)


def _strength(given: float | None, image: str | None, mask: str | None) -> float:
    if image is None:
        return 1.0
    return given if given is not None else 0.6 if mask is None else 1.0


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _said(ctx: typer.Context, name: str) -> bool:
    """Whether an option was given, by any means, and does not stand at its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _split(words: list[str], grid: list[str]) -> tuple[str | None, list[str]]:
    """The prompt, and the axes: those after the first of --grid arrive as arguments."""
    axes = [word for word in words if grid and re.match(r"[xy]:[\w.-]+=", word)]
    rest = [word for word in words if word not in axes]
    if len(rest) > 1:
        raise UsageError(f"one PROMPT is expected, got {len(rest)}; put it in quotes")
    return (rest[0] if rest else None), [*grid, *axes]


def _again(
    ctx: typer.Context, request: Any, source: str, loras: list[str], changes: Any, lora_dir: str | None
) -> tuple[Any, Any]:
    """The request and the composition of a picture; what was given on the command line counts more.

    Of models only the built-in one is taken over: a picture from elsewhere must not have anything fetched or opened.
    """
    from dataclasses import replace

    from lorakit.data.pngtext import told
    from lorakit.io.inputs import existing_file

    try:
        found = told(existing_file(source, "picture of --from"))
    except InputError as error:
        raise InputError(f"--from {error}") from error
    if found is None:
        raise InputError(
            f"--from {source}: the picture does not say how it was drawn (no PNG text of lorakit or a webui)"
        )
    names = {"guidance_rescale": "rescale", "plain_prompts": "plain", "cut_prompts": "cut", "vae_tiling": "tiling"}
    said = {names.get(name, name) for name in ctx.params if _said(ctx, name)}
    values = {name: value for name, value in found.settings.items() if name not in said and name != "prompt"}
    if "scheduler" in said and request.scheduler != found.settings.get("scheduler"):
        values.pop("spacing", None)  # it goes with the picture's scheduler
    if values.get("model", "tiny") != "tiny":
        model = values["model"]
        raise UsageError(
            f"--from {source} was drawn with the model {model!r}, which is not taken from a picture; say --model {model} "
            "if you trust it, or another"
        )
    if other := values.get("vae"):
        raise UsageError(
            f"--from {source} was drawn with the autoencoder {other!r}, which is not taken from a picture; say --vae {other} "
            "if you trust it, or another"
        )
    tagged = found.tagged if lora_dir is not None and not loras else ""
    request = replace(request, prompts=[tagged or found.settings["prompt"]], **values)
    for text in found.unread:
        note(f"{source}: not taken over: {text}")
    if found.loras and not loras and lora_dir is None:
        wanted = ", ".join(f"{name} at {weight:g}" for name, weight in found.loras)
        raise InputError(
            f"--from {source} was drawn with {wanted}; give them with --lora PATH:WEIGHT, or their folder with --lora-dir"
        )
    if loras or found.recipe is None:
        return request, None
    return request, _recipe(found.recipe, Path(source).name, changes)


def _recipe(text: str, picture: str, changes: Any) -> Any:
    from lorakit.drawing.composing import changed
    from lorakit.formats.recipes import parse

    try:
        recipe = parse(text, Path(f"the recipe in {picture}"))
    except InputError as error:
        raise InputError(f"{error}; run where it was drawn, or give the adapters with --lora") from error
    return changed(recipe, changes)


def register(app: typer.Typer) -> None:
    command(app, "sample", compute=True)(sample)
