"""Captions: how a template fills, and what training makes of them."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lorakit.data.trigger_words import by_itself
from lorakit.errors import UsageError


def fill(template: str, caption: str, token: str) -> str:
    """`a photo of {token}, {caption}` filled in; what an empty caption or token leaves over is tidied."""
    try:
        text = template.format(token=token, caption=caption)
    except (KeyError, IndexError, ValueError) as error:
        raise UsageError(f"--caption-template {template!r}: only {{token}} and {{caption}} can stand in it") from error
    return " ".join(text.split()).strip(" ,")


# Textual inversion's own (Gal et al., 2022), without those that say the same twice.
TEMPLATES = {
    "object": (
        "a photo of a {}",
        "a rendering of a {}",
        "a cropped photo of the {}",
        "the photo of a {}",
        "a photo of a clean {}",
        "a photo of a dirty {}",
        "a dark photo of the {}",
        "a photo of my {}",
        "a photo of the cool {}",
        "a close-up photo of a {}",
        "a bright photo of the {}",
        "a photo of the {}",
        "a good photo of the {}",
        "a photo of one {}",
        "a rendition of a {}",
        "a photo of a nice {}",
        "a photo of a small {}",
        "a photo of a large {}",
        "a photo of a weird {}",
        "a photo of a cool {}",
    ),
    "style": (
        "a painting in the style of {}",
        "a rendering in the style of {}",
        "a cropped painting in the style of {}",
        "the painting in the style of {}",
        "a clean painting in the style of {}",
        "a dirty painting in the style of {}",
        "a dark painting in the style of {}",
        "a picture in the style of {}",
        "a cool painting in the style of {}",
        "a close-up painting in the style of {}",
        "a bright painting in the style of {}",
        "a good painting in the style of {}",
        "a painting of one thing in the style of {}",
        "a nice painting in the style of {}",
        "a small painting in the style of {}",
        "a weird painting in the style of {}",
        "a large painting in the style of {}",
    ),
}

_CHOICE = re.compile(r"\{([^{}|]*+\|[^{}]*+)\}")


def has_choice(caption: str) -> bool:
    """Whether a caption has `{a|b}` in it."""
    return "|" in caption and _CHOICE.search(caption) is not None


@dataclass(frozen=True, kw_only=True)
class CaptionRules:
    """What becomes of a caption on its way into training, in this order.

    template        `object`, `style` or `none`: sentences about `token` instead of captions; or one of your own with {}
    substitute      pairs (word, text): whole words of the caption, in any case, become the text; `{token}` becomes `token`
    wildcards       `{red|blue} ball` becomes one of the two; else it stays as it is
    keep_tokens     so many tags at the front are neither moved nor left out; or all before `keep_separator`
    tag_dropout     share of the other tags that are left out
    warmup_epochs   the other tags come in one after another over so many epochs
    shuffle         the other tags in another order each time
    prefix, suffix  put before and after, as tags
    dropout         share of captions that are empty, so that guidance works
    """

    template: str = "none"
    token: str = ""
    substitute: tuple[tuple[str, str], ...] = ()
    wildcards: bool = False
    separator: str = ","
    keep_tokens: int = 0
    keep_separator: str = ""
    tag_dropout: float = 0.0
    warmup_epochs: int = 0
    shuffle: bool = False
    prefix: str = ""
    suffix: str = ""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        wrong = [
            f"{option} must be 0 to 1, got {value}"
            for option, value in (("--caption-dropout", self.dropout), ("--tag-dropout", self.tag_dropout))
            if not 0 <= value <= 1
        ]
        wrong += [
            f"{option} must be at least 0, got {value}"
            for option, value in (("--keep-tokens", self.keep_tokens), ("--tag-warmup", self.warmup_epochs))
            if value < 0
        ]
        if not self.separator.strip():
            wrong.append("--caption-separator must not be empty")
        if self.keep_separator and self.keep_tokens:
            wrong.append("--keep-tokens and --keep-separator say the same thing twice; give one")
        if self.template != "none":
            if self.template not in TEMPLATES and "{}" not in self.template:
                wrong.append(f"--template {self.template!r}: there are object, style, none, or a sentence with {{}}")
            if not self.token:
                wrong.append(f"--template {self.template} needs --token, which stands in its place")
        if wrong:
            raise UsageError("\n".join(wrong))

    def settled(self) -> CaptionRules:
        """The rules without those that leave something out or out of order: a caption as people would write it."""
        return replace(self, dropout=0.0, tag_dropout=0.0, warmup_epochs=0, shuffle=False)

    @property
    def by_tags(self) -> bool:
        return bool(self.shuffle or self.tag_dropout or self.warmup_epochs or self.keep_separator)


def _draw(*key: int | str) -> Callable[[], float]:
    """Numbers in 0..1 that depend on the key alone."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode("utf-8", "surrogatepass")).digest()
    return random.Random(int.from_bytes(digest, "little")).random


def _one_of(choices: Sequence[str], draw: Callable[[], float]) -> str:
    return choices[int(draw() * len(choices))] if len(choices) > 1 else choices[0]


def _substituted(text: str, rules: CaptionRules) -> str:
    for word, replacement in rules.substitute:
        text = replacement.join(re.split(by_itself(word), text, flags=re.IGNORECASE))
    return text.replace("{token}", rules.token)


def _tags(text: str, rules: CaptionRules, epoch: int, key: tuple[int | str, ...]) -> str:
    """The caption with its tags chosen and in their order."""
    separator = rules.separator.strip()
    fixed, mark, moving = text.partition(rules.keep_separator) if rules.keep_separator else ("", "", text)
    if rules.keep_separator and not mark:
        fixed, moving = "", text
    front = [tag for x in fixed.split(separator) if (tag := x.strip())]
    tags = [tag for x in moving.split(separator) if (tag := x.strip())]
    front, tags = front + tags[: rules.keep_tokens], tags[rules.keep_tokens :]
    if epoch < rules.warmup_epochs:
        tags = tags[: -(-len(tags) * (epoch + 1) // (rules.warmup_epochs + 1))]
    if rules.tag_dropout:
        draw = _draw(*key, "tags")
        tags = [tag for tag in tags if draw() >= rules.tag_dropout]
    if rules.shuffle:
        draw = _draw(*key, "order")
        for i in range(len(tags) - 1, 0, -1):  # Fisher and Yates; random.shuffle may change between Pythons
            j = int(draw() * (i + 1))
            tags[i], tags[j] = tags[j], tags[i]
    return f"{separator} ".join(front + tags)


def caption_at(captions: Sequence[str], rules: CaptionRules, seed: int, epoch: int, picture: str) -> str:
    """The caption a picture is shown with in an epoch: a function of the arguments alone, whatever the order of batches.

    captions    the picture's own: one, or several of which one is taken
    picture     names the picture, by its content; where it is shown several times an epoch, with the number of the time

    Each rule draws for itself, so that turning one on leaves what the others draw as it was.
    """
    key: tuple[int | str, ...] = (seed, "caption", epoch, picture)
    if rules.dropout and _draw(*key, "dropout")() < rules.dropout:
        return ""
    if rules.template == "none":
        text = _one_of(captions, _draw(*key, "alternative"))
    else:
        template = _one_of(TEMPLATES.get(rules.template, (rules.template,)), _draw(*key, "template"))
        text = template.replace("{}", rules.token)
    text = _substituted(text, rules)
    if rules.wildcards and "|" in text:
        draw = _draw(*key, "wildcard")
        while match := _CHOICE.search(text):  # the innermost first, so that choices may hold choices
            text = text[: match.start()] + _one_of(match[1].split("|"), draw).strip() + text[match.end() :]
    if rules.by_tags:
        text = _tags(text, rules, epoch, key)
    ends = (rules.prefix.strip(), text.strip(), rules.suffix.strip())
    return f"{rules.separator.strip()} ".join(part for part in ends if part)


def captions_of(
    captions: Sequence[str], rules: CaptionRules, seed: int, epochs: int, picture: str, most: int = 256
) -> list[str] | None:
    """The different captions a picture has in the first `epochs`, in order; None where they are more than `most`.

    What a run will say is known before it starts, so text states can be made beforehand though captions change.
    """
    chosen = rules.wildcards and any("|" in caption for caption in captions)
    changes = rules.by_tags or rules.dropout or rules.template != "none" or len(captions) > 1 or chosen
    found: dict[str, None] = {}
    for epoch in range(epochs if changes else min(1, epochs)):
        found[caption_at(captions, rules, seed, epoch, picture)] = None
        if len(found) > most:
            return None
    return list(found)
