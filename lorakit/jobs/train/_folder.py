"""The pictures that a run is given, with captions and masks, and what of the options about them makes no difference there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lorakit.config import TrainConfig
from lorakit.data import dataset
from lorakit.data.captions import has_choice
from lorakit.data.dataset import Example
from lorakit.effects import refuse_idle
from lorakit.errors import some
from lorakit.jobs.train._life import Life


def read_examples(folder: Path, config: TrainConfig, life: Life, note: Callable[[str], None]) -> list[Example]:
    """The pictures of a folder, without what this run writes below it and its class pictures; with a template the captions
    are the tokens'."""
    prompt = config.instance_prompt or (" ".join(config.token) if config.sentences != "none" else None)
    places = {life.run_folder: "the run folder", life.output: "the output"}
    if config.prior_dir is not None:
        places[Path(config.prior_dir)] = "--prior-dir"
    found = dataset.measured(dataset.read(folder, prompt, note, places=places, repeats=config.repeats))
    choices = [one.file.name for one in found if any(map(has_choice, one.captions))]
    if choices and not config.wildcards:
        note(f"{{a|b}} is shown as it stands in captions of {some(choices, 3)}; --wildcards takes one of the choices")
    _check_use(folder, found, choices, config, life, note)
    return found


def _check_use(
    folder: Path, found: Sequence[Example], choices: Sequence[str], config: TrainConfig, life: Life,
    note: Callable[[str], None],
) -> None:  # fmt: skip
    """UsageError for an option that was given and has nothing to do in this folder; one of a shared file is noted."""
    idle = {}
    if config.mask_weight is not None and not any(one.mask for one in found):
        idle["mask_weight"] = (
            f"--mask-weight has an effect only where pictures have masks, and none of {folder} has one"
        )
    if config.wildcards and not choices:
        idle["wildcards"] = f"--wildcards has an effect only where captions have {{a|b}}, and none of {folder} has"
    refuse_idle(idle, life.given, note)
