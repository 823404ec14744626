"""Pictures from prompts, with adapters; and the class pictures of `prior-gen`, which are the same job."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorakit import __version__
from lorakit.data.pngtext import encode
from lorakit.errors import UsageError
from lorakit.io.files import check_target, write_bytes
from lorakit.jobs import adapters
from lorakit.models import inject
from lorakit.models.encode import conditioning_of
from lorakit.models.load import Components, is_small, load
from lorakit.models.sample import Drawing, draw
from lorakit.runtime.device import pick_device, pick_dtype


@dataclass(frozen=True)
class Request:
    """What to draw: picture i of each prompt from seed + i alone."""

    prompts: Sequence[str]
    count: int
    seed: int
    negative: str
    model: str
    size: tuple[int, int] | None
    steps: int
    guidance: float
    scheduler: str
    batch_size: int


def load_model(
    name: str, device: str, dtype: str, note: Callable[[str], None], tokenizer: Path | None = None
) -> Components:
    """The base model on the chosen device; the built-in one is said."""
    if name == "tiny":
        note("using the built-in model 'tiny' (64x64 emoji); choose another with --model")
    where = pick_device(device)
    components = load(name, where, pick_dtype(dtype, where), tokenizer=tokenizer, note=note)
    if is_small(components):
        torch.set_num_threads(1)  # `each` uses the cores; operators this short only wait for one another
    return components


def drawing(components: Components, request: Request) -> Drawing:
    size = request.size or (components.size, components.size)
    if size[0] % components.multiple or size[1] % components.multiple:
        raise UsageError(f"--size {size[0]}x{size[1]}: sides must be multiples of {components.multiple} for this model")
    return Drawing(size, request.steps, request.guidance, request.scheduler, request.batch_size)


def apply_adapters(
    components: Components, given: Sequence[adapters.Weighted], note: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Put the adapters on; says how many modules each reached, by part, and lists what matched nothing."""
    applied = []
    for one in given:
        done = inject.apply(components.parts, adapters.load(one.file), one.weight, str(one.file))
        reached = ", ".join(f"{count} in {part}" for part, count in done.counts.items() if count)
        note(f"{one.file} at {one.weight:g}: {reached}")
        if done.unmatched:
            note(
                f"{one.file}: {len(done.unmatched)} modules match nothing in the model: {', '.join(done.unmatched[:5])}"
            )
        applied.append(
            {"name": one.file.stem, "weight": one.weight, "sha256": one.sha256(), "applied": dict(done.counts)}
        )
    return applied


def settings_of(request: Request, how: Drawing, prompt: str, seed: int, loras: list[dict[str, Any]]) -> dict[str, Any]:
    """What a drawn picture was made from, for its PNG text."""
    return {
        "prompt": prompt, "negative": request.negative, "seed": seed, "steps": how.steps, "guidance": how.guidance,
        "scheduler": how.scheduler, "size": list(how.size), "model": request.model, "loras": loras,
        "version": __version__,
    }  # fmt: skip


def pictures(components: Components, request: Request, how: Drawing, jobs: Sequence[tuple[str, int]], note: Callable[[str], None]) -> Any:  # fmt: skip
    """Iterator of uint8 pictures for (prompt, seed) pairs; each distinct prompt is encoded once."""
    distinct = sorted({prompt for prompt, _ in jobs} | {request.negative})
    told, cut = conditioning_of(components, distinct)
    for prompt in cut:
        note(
            f"the prompt is longer than the {components.tokenizer.model_max_length} tokens the model reads: {prompt!r}"
        )
    by_prompt = {prompt: told[i] for i, prompt in enumerate(distinct)}
    return draw(components, [by_prompt[prompt] for prompt, _ in jobs], by_prompt[request.negative], [seed for _, seed in jobs], how)  # fmt: skip


def run(
    request: Request, output: Path, *, loras: Sequence[str], device: str, dtype: str, force: bool, dry_run: bool,
    tick: Callable[[int, int], None], note: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Draw into a folder, or into one PNG where `output` ends in .png and one picture is asked for."""
    jobs = [(prompt, request.seed + i) for prompt in request.prompts for i in range(request.count)]
    single = output.suffix.lower() == ".png"
    if single and len(jobs) > 1:
        raise UsageError(f"-o {output}: {len(jobs)} pictures need a folder")
    names = [output] if single else [output / f"{i:05d}.png" for i in range(len(jobs))]
    if not single:
        check_target(output, force=True, folder=True)
    for name in names:
        check_target(name, force=force)
    given = adapters.read_arguments(loras)
    components = load_model(request.model, device, dtype, note)
    how = drawing(components, request)
    applied = apply_adapters(components, given, note)
    if dry_run:
        note(f"{len(jobs)} pictures would be drawn into {output}")
        return {"outputs": [], "adapters": applied}
    for i, picture in enumerate(pictures(components, request, how, jobs, note)):
        prompt, seed = jobs[i]
        write_bytes(names[i], encode(picture, settings_of(request, how, prompt, seed, applied)))
        tick(i + 1, len(jobs))
    return {"outputs": [str(name) for name in names], "adapters": applied}
