"""Which options of `train` have an effect on which runs: the marks that the config's fields carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lorakit.config import TrainConfig

WITH_TOKENS = ("ti", "pivotal")
WITH_ADAPTERS = ("lora", "dreambooth", "pivotal")


class Only(NamedTuple):
    """A mark of an option that some runs alone make use of.

    when    says which, after "has an effect only": "with --text-encoder"
    holds   whether a run of this config is one
    """

    when: str
    holds: Callable[[TrainConfig], bool]


ADAPTERS = Only("in the modes lora, dreambooth and pivotal, which train adapters", lambda c: c.mode in WITH_ADAPTERS)
TOKENS = Only("in the modes ti and pivotal, which learn words", lambda c: c.mode in WITH_TOKENS)
BUT_TI = Only("in every mode but ti", lambda c: c.mode != "ti")
RATE = Only("in every mode but ti, whose rate is --lr-token", lambda c: c.mode != "ti")
ONE_FILE = Only("with a --model that is one file", lambda c: c.model.endswith((".safetensors", ".ckpt")))

PRIOR = Only("with class pictures: --class-prompt or --prior-dir, in every mode but ti", lambda c: c.has_prior)

TAGS = Only(
    "with --shuffle-tags, --tag-dropout or --tag-warmup",
    lambda c: bool(c.shuffle_tags or c.tag_dropout or c.tag_warmup),
)
SEPARATOR = Only(
    "with tags that are moved or left out, or with --caption-prefix or --caption-suffix",
    lambda c: bool(TAGS.holds(c) or c.caption_prefix or c.caption_suffix),
)

TEXT = Only("with --text-encoder", lambda c: c.text_encoder and c.mode != "ti")
TEXT_STEPS = Only(
    "with --text-encoder in a mode that trains adapters", lambda c: c.text_encoder and c.mode in WITH_ADAPTERS
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
