"""What a run trains on: the pictures and captions of a folder, the class pictures, those held out; all encoded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lorakit.config import TrainConfig
from lorakit.data import buckets
from lorakit.data.captions import CaptionRules
from lorakit.data.dataset import Example
from lorakit.data.lint import lint
from lorakit.data.split import split
from lorakit.errors import InputError, UsageError
from lorakit.families import guess
from lorakit.jobs.train.folder import read_examples
from lorakit.jobs.train.identity import data_hash, items
from lorakit.jobs.train.prior import class_pictures
from lorakit.jobs.train.run_options import RunOptions
from lorakit.jobs.train.words import notes_of_words
from lorakit.models.fingerprint import encoder_hash
from lorakit.models.load import Components
from lorakit.runtime.world import World
from lorakit.talk import Talk
from lorakit.training.cache import Cached, cache_latents, tidy
from lorakit.training.samples import TrainingSource
from lorakit.training.teacher import Teacher

_MOST_CAPTIONS = 20_000  # encoded before the first step; more are encoded as they come
_INPAINTING_MASKS = 4  # drawn for each picture


@dataclass(frozen=True, kw_only=True)
class Data:
    """Encoded pictures, and where they came from.

    measured    what validations look at: the pictures that are not trained on, then the class pictures; empty without the former
    held_out    how many pictures are not trained on
    captions    all that can be shown; None where they are too many to be known
    complete    whether class pictures are among it, where they are wanted: a dry run draws none
    pictures    sample name, as the log has it, to its file
    table       of the buckets, for people
    words       metadata about the captions, for the output
    items       what the hash is of, by picture, as JSON
    masks       how many pictures that are trained on have one
    repeats     how many pictures an epoch shows so often
    """

    folder: Path
    sources: Sequence[TrainingSource]
    measured: Sequence[TrainingSource]
    held_out: int
    captions: Sequence[str] | None
    pictures: Mapping[str, Path]
    table: Sequence[Mapping[str, Any]]
    hash: str
    family: str | None
    words: Mapping[str, str]
    complete: bool = True
    items: str = "{}"
    masks: int = 0
    repeats: Mapping[int, int] = field(default_factory=dict)


def read_data(
    folder: Path,
    config: TrainConfig,
    life: RunOptions,
    *,
    components: Components,
    prior_of: str | None,
    talk: Talk,
    world: World,
) -> Data:
    """Everything read, checked and encoded; the class pictures drawn first, where the mode needs them: `prior_of` is the
    hash of the model they are drawn with then."""
    size = config.size or components.size
    if size % components.multiple:
        raise UsageError(f"--size {size}: must be a multiple of {components.multiple} for this model")
    rules = _rules(config)
    examples, held, digests = _checked(folder, read_examples(folder, config, life, talk.note), config, size, talk)
    prior = (
        class_pictures(components, folder, config, base=prior_of, life=life, talk=talk, world=world) if prior_of else []
    )
    batch = (config.batch_size or 1) * config.accumulate * world.size
    cache, encoder = life.cache, encoder_hash(components)

    def encoded(some: Sequence[Example], per_step: int, flip: bool, masks: bool) -> tuple[Cached, buckets.Buckets]:
        known = [digests.get(one.file, "") for one in some]
        found = buckets.choose(
            [example.size or (size, size) for example in some],
            size * size,
            components.multiple,
            per_step,
            repeats=[example.repeats for example in some],
            upscale=config.upscale,
        )
        return cache_latents(
            components,
            some,
            size,
            flip,
            lambda done, total: None,
            folder=cache,
            shapes=found.shapes(),
            mask_weight=(config.mask_weight or 0.0) if masks else None,
            inpainting=(_INPAINTING_MASKS, config.seed) if components.inpaints else None,
            digests=known if all(known) else None,
            encoder=encoder,
            encode=not life.dry_run or life.looks_only,
        ), found

    with world.main_first():
        cached, chosen = encoded(examples, batch, config.flip, True)
        kept = [encoded(held, 1, False, True)[0]] if held else []
        classes = [encoded(prior, max(1, batch // 2), False, False)[0]] if prior else []
        if world.main and cache is not None:
            tidy(cache, [cached, *kept, *classes])
    sources = [
        TrainingSource(
            name="data",
            cached=cached,
            captions=[e.captions for e in examples],
            batch=batch,
            weight=1.0,
            rules=rules,
            originals=_sizes(examples),
            seed=config.seed,
        )
    ]
    for of in classes:
        share = max(1, batch // 2)
        captions = [example.captions for example in prior]
        teacher = Teacher() if config.prior_target == "teacher" else None
        weight, sizes = config.prior_weight, _sizes(prior)
        sources.append(
            TrainingSource(
                name="prior",
                cached=of,
                captions=captions,
                batch=share,
                weight=weight,
                originals=sizes,
                seed=config.seed,
                teacher=teacher,
            )
        )
    every = [
        (source.name, i, e.file)
        for source, of in zip(sources, (examples, prior), strict=False)
        for i, e in enumerate(of)
    ]
    measured = [
        TrainingSource(
            name="held-out",
            cached=of,
            captions=[e.captions for e in held],
            batch=1,
            rules=rules,
            originals=_sizes(held),
            seed=config.seed,
        )
        for of in kept
    ]
    measured += [replace(source, teacher=None) for source in sources[1:] if measured]
    own, others = ([key for of in some for key in of.keys] for some in ((cached, *kept), classes))
    seen = items(folder, [*examples, *held], own)
    seen |= items(Path(config.prior_dir or ""), prior, others, "class picture ")
    return Data(
        folder=folder,
        sources=sources,
        measured=measured,
        held_out=len(held),
        captions=_captions(sources, config),
        pictures={f"{name}/{i}": file for name, i, file in every},
        table=chosen.rows(),
        hash=data_hash([*examples, *held, *prior], [*own, *others], len(prior)),
        family=_family(components),
        words=notes_of_words(folder, examples, config),
        complete=not prior_of or len(prior) >= config.prior_count,
        items=json.dumps(seen),
        masks=sum(one.mask is not None for one in examples),
        repeats=Counter(one.repeats for one in examples),
    )


def _rules(config: TrainConfig) -> CaptionRules:
    return CaptionRules(
        template=config.sentences,
        token=" ".join(config.token),
        separator=config.caption_separator,
        keep_tokens=config.keep_tokens,
        keep_separator=config.keep_separator,
        tag_dropout=config.tag_dropout,
        warmup_epochs=config.tag_warmup,
        shuffle=config.shuffle_tags,
        prefix=config.caption_prefix,
        suffix=config.caption_suffix,
        dropout=config.caption_dropout,
        wildcards=config.wildcards,
    )


def _checked(
    folder: Path, examples: Sequence[Example], config: TrainConfig, size: int, talk: Talk
) -> tuple[list[Example], list[Example], dict[Path, str]]:
    """The pictures to train on, those held out, and the sha256 of each file, after a look at all of them: what is odd is
    said, what is wrong is an InputError that lists it."""
    tokens = config.token if config.sentences == "none" else []
    found = lint(examples, size, tokens)
    if found.errors:
        hint = "\nwrite the token into the captions, or give --instance-prompt or --template object" if tokens else ""
        raise InputError(f"{folder}: " + "\n".join(map(str, found.errors[:3])) + hint)
    for finding in found.findings:
        talk.note(str(finding))
    keys = ["" if one is None else one.digest for one in found.prints]
    digests = dict(zip((example.file for example in examples), keys, strict=True))
    if not config.validation_split:
        return list(examples), [], digests
    try:
        train, held = split(keys, config.validation_split, config.seed, found.alike)
    except ValueError as error:
        raise InputError(f"{folder}: --validation-split: {error}") from error
    return [examples[i] for i in train], [replace(examples[i], repeats=1) for i in held], digests


def _sizes(examples: Sequence[Example]) -> list[tuple[int, int]]:
    return [example.size or (0, 0) for example in examples]


def _captions(sources: Sequence[TrainingSource], config: TrainConfig) -> list[str] | None:
    found = {""}
    for source in sources:
        epochs = int(source.batches.epochs(config.total)) + 1
        mine = source.all_captions(epochs, _MOST_CAPTIONS)
        if mine is None:
            return None
        found |= mine
    return sorted(found)


def _family(components: Components) -> str | None:
    """None where no table has such shapes: adapters are written by the names of their modules then."""
    shapes = {
        f"unet.{name.removesuffix('.weight')}": tuple(p.shape)
        for name, p in components.unet.named_parameters()
        if name.endswith("attn2.to_k.weight")
    }
    return guess(shapes).family
