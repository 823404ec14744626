"""The class pictures of a run: the user's own, and as many drawn ones as they lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lorakit.config import TrainConfig
from lorakit.data import dataset
from lorakit.data.dataset import Example
from lorakit.drawing import class_pictures as prior_gen
from lorakit.drawing.request import Request
from lorakit.errors import InputError, UsageError
from lorakit.jobs.train.run_options import RunOptions
from lorakit.models.load import Components
from lorakit.runtime.world import World
from lorakit.talk import Talk


def class_pictures(
    components: Components, data: Path, config: TrainConfig, *, base: str, life: RunOptions, talk: Talk, world: World
) -> list[Example]:
    """All pictures of --prior-dir, and of a cache of lorakit's own what is missing to --prior-count, drawn first with the
    untouched base model. A --prior-dir that is not there or empty, or that an earlier run began to fill, is filled itself.

    A picture keeps the caption beside it; one without has --class-prompt. In a dry run nothing is drawn: what would be
    is not among them. `data` are the user's other pictures, and base is the hash of the model's weights.
    """
    folder, dry_run = None if config.prior_dir is None else Path(config.prior_dir), life.dry_run
    _check(folder, data, config)
    with world.main_first():
        if folder is not None and config.class_prompt and prior_gen.goes_on(_request(config), components, folder):
            prior_gen.run(_request(config), folder, components, force=False, dry_run=dry_run, talk=talk, turn=World())
            if dry_run:
                return []
        places = {data: "DATA", life.run_folder: "the run folder", life.output: "the output"}
        own = [] if folder is None else _read(folder, config, talk, places)
        missing = config.prior_count - len(own)
        _tell(folder, own, max(0, missing), config, talk)
        if missing <= 0:
            return own
        if not config.class_prompt:
            raise UsageError(
                f"{folder} holds {len(own)} class pictures; --class-prompt says what the missing {missing} are to show"
            )
        drawn = prior_gen.prior_set(
            replace(_request(config), count=missing), components, talk=talk, base=base, dry_run=dry_run
        )
        return own + _read(drawn, config, talk, {})[:missing]


def _check(folder: Path | None, data: Path, config: TrainConfig) -> None:
    if folder is None:
        if not config.class_prompt:
            raise UsageError(f'--mode {config.mode} needs --class-prompt, such as "a photo of a dog", or --prior-dir')
        return
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--prior-dir {folder} is a file; name a folder of class pictures")
    if not folder.exists() and not config.class_prompt:
        raise InputError(f"--prior-dir {folder}: no such folder; --class-prompt says what to draw into it")
    if folder.exists() and folder.samefile(data):
        raise UsageError(f"--prior-dir {folder} is the set that is trained on; class pictures are others of its class")


def _tell(folder: Path | None, own: Sequence[Example], missing: int, config: TrainConfig, talk: Talk) -> None:
    """Say which class pictures are trained on, before any are drawn."""
    parts = [f"{len(own)} of --prior-dir {folder}"] * bool(own)
    parts += [f"{missing} that lorakit draws of --class-prompt {config.class_prompt!r}"] * bool(
        missing and config.class_prompt
    )
    more = f"; all are used, though --prior-count is {config.prior_count}" if len(own) > config.prior_count else ""
    if parts:
        talk.note(f"class pictures, in every step beside yours: {' and '.join(parts)}{more}")
    said = {caption for one in own for caption in one.captions}
    if own and not missing and config.class_prompt and config.class_prompt not in said:
        talk.note(f"--class-prompt is not used: all class pictures in {folder} have captions of their own")


def _request(config: TrainConfig) -> Request:
    return Request(
        prompts=[config.class_prompt or ""],
        count=config.prior_count,
        seed=config.seed,
        negative="",
        model=config.model,
        size=None,
        steps=20,
        guidance=4.0,
        scheduler="dpm++",
        batch_size=8,
        vae=config.vae,
    ).of_model(config.of_model)


def _read(folder: Path, config: TrainConfig, talk: Talk, places: Mapping[Path, str]) -> list[Example]:
    """The pictures of a folder, without those in `places` below it; none of one that holds no pictures yet. Masks of class
    pictures are not used."""
    if not folder.is_dir() or not dataset.find(folder):
        return []
    found = dataset.read(
        folder,
        None,
        talk.note,
        config.class_prompt or "",
        places=places,
        drawings=True,
        repeats=config.repeats,
        prompt="--class-prompt",
    )
    if masks := sum(one.mask is not None for one in found):
        talk.note(f"masks of class pictures are not used ({masks} in {folder})")
    return dataset.measured([replace(one, mask=None) for one in found])
