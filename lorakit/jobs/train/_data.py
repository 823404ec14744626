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
from lorakit.training.cache import cache_latents
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
    """Everything read, checked and encoded; the class pictures drawn first, where the mode needs them."""
    size = config.size or components.size
    if size % components.multiple:
        raise UsageError(f"--size {size}: must be a multiple of {components.multiple} for this model")
    examples = dataset.read(folder, config.instance_prompt, talk.note)
    lost = missing([example.caption for example in examples], config.token)
    if lost:
        raise InputError(
            f"{folder}: no caption has {', '.join(lost)}; write it into the captions, or give --instance-prompt or --template"
        )
    prior = _prior(components, config, life, talk, world) if needs_prior else []
    quiet: Callable[[int, int], None] = lambda done, total: None  # noqa: E731
    batch = config.batch_size or 1
    cached = cache_latents(components, examples, size, config.flip, quiet)
    sources = [Source("data", cached, batch, 1.0, config.caption_dropout)]
    if prior:
        share = max(1, batch // 2)
        sources.append(
            Source("prior", cache_latents(components, prior, size, False, quiet), share, config.prior_weight)
        )
    named = {
        f"{source.name}/{i}": e.file
        for source, of in zip(sources, (examples, prior), strict=False)
        for i, e in enumerate(of)
    }
    captions = sorted({"", *(example.caption for example in [*examples, *prior])})
    return Data(folder, examples, sources, [], captions, named, data_hash([*examples, *prior]), "tiny")


def _prior(components: Components, config: TrainConfig, life: Life, talk: Talk, world: World) -> list[Example]:
    """The class pictures; missing ones are drawn first, with the untouched base model."""
    if not config.class_prompt:
        raise UsageError(f'--mode {config.mode} needs --class-prompt, such as "a photo of a dog"')
    folder = Path(config.prior_dir) if config.prior_dir else life.run_folder / "prior"
    if not folder.is_dir() or len(dataset.find(folder)) < config.prior_count:
        request = sample.Request(
            [config.class_prompt], config.prior_count, config.seed, "", config.model, None, 20, 4.0, "dpm++", 8
        )
        with world.main_first():
            prior_gen.run(request, folder, components, force=False, dry_run=False, tick=talk.tick, note=talk.note)
    return dataset.read(folder, config.class_prompt)[: config.prior_count]
