"""What the metadata of a trained file tells of the words it was trained with: the trigger phrase, and the captions' tags."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lorakit.config import TrainConfig
from lorakit.data.dataset import Example
from lorakit.data.trigger_words import contains, shared_phrase, tags_of
from lorakit.formats import triggers
from lorakit.naming import spelled

_MOST_TAGS = 5000  # a folder: the commonest; captions of sentences are a tag each
_TITLES = {"ti": "embedding by lorakit", "full": "model by lorakit"}


def notes_of_words(folder: Path, examples: Sequence[Example], config: TrainConfig) -> dict[str, str]:
    """Metadata about the pictures of the set that are trained on, as kohya and modelspec spell it."""
    captions = [[_with_ends(caption, config) for caption in example.captions] for example in examples]
    counts: dict[str, Counter[str]] = {}
    folders: dict[str, dict[str, int]] = {}
    for example, own in zip(examples, captions, strict=True):
        name = (example.file.parent if example.file.parent != folder else folder.resolve()).name
        tags = {tag: 1 for caption in own for tag in tags_of(caption, config.caption_separator)}
        counts.setdefault(name, Counter()).update(tags)
        row = folders.setdefault(name, {"n_repeats": example.repeats, "img_count": 0})
        row["img_count"] += 1
        row["n_repeats"] = max(row["n_repeats"], example.repeats)
    words = _trigger_words(examples, captions, config)
    return {
        triggers.TAGS: json.dumps(spelled({name: _commonest(c) for name, c in counts.items()}), ensure_ascii=False),
        triggers.FOLDERS: json.dumps(spelled(folders), ensure_ascii=False),
        **triggers.written(spelled(words), _TITLES.get(config.mode, "LoRA by lorakit")),
    }


def _with_ends(caption: str, config: TrainConfig) -> str:
    ends = (config.caption_prefix.strip(), caption, config.caption_suffix.strip())
    return f"{config.caption_separator.strip()} ".join(text for text in ends if text)


def _commonest(counter: Counter[str]) -> dict[str, int]:
    """The tags in the order in which they were met."""
    kept = dict(counter.most_common(_MOST_TAGS))
    return {tag: count for tag, count in counter.items() if tag in kept}


def _trigger_words(examples: Sequence[Example], captions: Sequence[Sequence[str]], config: TrainConfig) -> list[str]:
    """The words that are surely the adapter's: learned tokens, else the one prompt of all pictures, else the tokens that
    ppim wrote into the captions, else what all captions share."""
    if config.token:
        return list(config.token)
    if config.instance_prompt:
        return [_with_ends(config.instance_prompt, config)]
    stated = [
        example.token
        for example in examples
        if example.token and any(contains(c, example.token) for c in example.captions)
    ]
    phrase = shared_phrase([caption for own in captions for caption in own], config.caption_separator)
    return list(dict.fromkeys(stated)) or ([phrase] if phrase else [])
