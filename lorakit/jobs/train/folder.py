"""The pictures that a run is given, with captions and masks, and what of the options about them makes no difference there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorakit.config import TrainConfig
from lorakit.data import dataset
from lorakit.data.captions import has_choice
from lorakit.data.dataset import Example
from lorakit.effects import refuse_idle
from lorakit.errors import some
from lorakit.fields import option
from lorakit.jobs.train.run_options import RunOptions
from lorakit.talk import Note


def read_examples(folder: Path, config: TrainConfig, life: RunOptions, note: Note) -> list[Example]:
    """The pictures of a folder, without what this run writes below it and its class pictures; with a template the captions
    are the tokens'."""
    templated = config.sentences != "none"
    prompt = " ".join(config.token) if templated else config.instance_prompt
    places = {life.run_folder: "the run folder", life.output: "the output"}
    if config.prior_dir is not None:
        places[Path(config.prior_dir)] = "--prior-dir"
    found = dataset.measured(
        dataset.read(
            folder,
            prompt,
            note,
            places=places,
            repeats=config.repeats,
            prompt="--template" if templated else "--instance-prompt",
        )
    )
    choices = [one.file.name for one in found if any(map(has_choice, one.captions))]
    if choices and not config.wildcards:
        note(f"{{a|b}} is shown as it stands in captions of {some(choices, 3)}; --wildcards takes one of the choices")
    _check_use(folder, found, choices, config, life, note)
    return found


def _check_use(
    folder: Path, found: Sequence[Example], choices: Sequence[str], config: TrainConfig, life: RunOptions, note: Note
) -> None:
    """UsageError for an option that was given and has nothing to do in this folder; one of a shared file is noted."""
    captions = [caption for one in found for caption in one.captions]
    idle = {}
    if config.mask_weight is not None and not any(one.mask for one in found):
        idle["mask_weight"] = (
            f"--mask-weight has an effect only where pictures have masks, and none of {folder} has one"
        )
    if config.wildcards and not choices:
        idle["wildcards"] = f"--wildcards has an effect only where captions have {{a|b}}, and none of {folder} has"
    if config.keep_separator and not any(config.keep_separator in caption for caption in captions):
        idle["keep_separator"] = (
            f"--keep-separator has an effect only where captions have {config.keep_separator!r}, and none of {folder} has"
        )
    if config.sentences == "none" and not any(config.caption_separator.strip() in caption for caption in captions):
        where = f"where captions have several tags, with {config.caption_separator.strip()!r} between them, and none of {folder} has"
        for name in ("shuffle_tags", "tag_warmup"):
            if getattr(config, name):
                idle[name] = f"{option(name)} has an effect only {where}"
    refuse_idle(idle, life.given, note)
