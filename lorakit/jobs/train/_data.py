"""What a run trains on: the pictures and captions of a folder, the class pictures, those held out; all encoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorakit.config import TrainConfig
from lorakit.data import dataset
from lorakit.data.dataset import Example
from lorakit.errors import InputError, UsageError
from lorakit.jobs import prior_gen, sample
from lorakit.jobs.train._identity import data_hash
from lorakit.jobs.train._life import Life, Talk
from lorakit.models.load import Components
from lorakit.models.tokens import missing
from lorakit.runtime.world import World
from lorakit.training.cache import Cached, cache_latents
from lorakit.training.objective import Source
from lorakit.training.validation import HeldOut


@dataclass(frozen=True)
class Data:
    """Encoded pictures, and where they came from.

    pictures    sample name, as the log has it, to its file
    captions    all that can be shown
    """

    folder: Path
    examples: Sequence[Example]
    sources: Sequence[Source]
    held_out: Sequence[HeldOut]
    captions: Sequence[str]
    pictures: Mapping[str, Path]
    hash: str
    family: str


def read_data(
    folder: Path, config: TrainConfig, life: Life, components: Components, needs_prior: bool, talk: Talk, world: World
) -> Data:
    raise NotImplementedError
