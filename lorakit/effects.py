"""Which options of `train` have an effect on which runs: the marks that the config's fields carry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lorakit.errors import UsageError
from lorakit.talk import Note

WITH_TOKENS = ("ti", "pivotal")
WITH_ADAPTERS = ("lora", "dreambooth", "pivotal")


class Only(NamedTuple):
    """A mark of an option that some runs alone make use of.

    when    says which, after "has an effect only": "with --text-encoder"
    holds   whether a run of this TrainConfig is one
    """

    when: str
    holds: Callable[[Any], bool]


def refuse_idle(idle: Mapping[str, str], sources: Mapping[str, str], note: Note) -> None:
    """UsageError for options that the command line gives and the run makes no use of; one note lists those of a file or the
    environment, which are for several runs.

    idle      option to what to say of it
    sources   option to where its value came from: option, environment, file, default
    """
    if said := [line for name, line in idle.items() if sources.get(name) == "option"]:
        raise UsageError("\n".join(said))
    if shared := [line for name, line in idle.items() if sources.get(name) in ("environment", "file")]:
        note(f"settings that this run makes no use of: {'; '.join(shared)}")


ADAPTERS = Only("in the modes lora, dreambooth and pivotal, which train adapters", lambda c: c.mode in WITH_ADAPTERS)
TOKENS = Only("in the modes ti and pivotal, which learn words", lambda c: c.mode in WITH_TOKENS)
BUT_TI = Only("in the modes lora, dreambooth, pivotal and full", lambda c: c.mode != "ti")
RATE = Only("in the modes lora, dreambooth, pivotal and full; the rate of ti is --lr-token", lambda c: c.mode != "ti")

PRIOR = Only(
    "with class pictures: --class-prompt or --prior-dir, in the modes lora, dreambooth, pivotal and full",
    lambda c: c.has_prior,
)

CAPTIONS = Only("without --template, whose sentences are shown instead", lambda c: c.sentences == "none")
MOVED_TAGS = Only("without --template, whose sentences have no tags", lambda c: c.sentences == "none")
TAGS = Only(
    "with --shuffle-tags, --tag-dropout or --tag-warmup",
    lambda c: bool(c.shuffle_tags or c.tag_dropout or c.tag_warmup),
)
SEPARATOR = Only(
    "with tags that are moved or left out, or with --caption-prefix or --caption-suffix",
    lambda c: bool(TAGS.holds(c) or c.caption_prefix or c.caption_suffix),
)

TEXT = Only(
    "with --text-encoder, in the modes lora, dreambooth, pivotal and full", lambda c: c.text_encoder and c.mode != "ti"
)
INIT = Only(
    "with --variant lora, rslora or dora", lambda c: c.mode in WITH_ADAPTERS and c.variant in ("lora", "rslora", "dora")
)
DORA = Only("with --variant dora", lambda c: c.mode in WITH_ADAPTERS and c.variant == "dora")

PIVOTAL = Only("in the mode pivotal", lambda c: c.mode == "pivotal")
JOINT = Only(
    "in the mode pivotal, where --joint is alternate or together", lambda c: c.mode == "pivotal" and c.joint != "off"
)

RESTARTS = Only("with --lr-schedule cosine-restarts", lambda c: c.lr_schedule == "cosine-restarts")
POLYNOMIAL = Only("with --lr-schedule polynomial", lambda c: c.lr_schedule == "polynomial")
FALLING = Only("with an --lr-schedule that falls", lambda c: c.lr_schedule != "constant")
HUBER = Only("with --loss huber or smooth-l1", lambda c: c.loss != "l2")
