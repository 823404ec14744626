"""What a merged adapter says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lorakit.formats import triggers
from lorakit.naming import spelled

# Of one file alone, or written anew.
_OWN = (
    "modelspec.title",
    "modelspec.hash",
    "modelspec.thumbnail",
    "modelspec.date",
    "modelspec.merged_from",
    "modelspec.trigger_phrase",
    "modelspec.usage_hint",
    "modelspec.tags",
    "modelspec.implementation",
    "ss_network_",
    "ss_output_name",
    "ss_tag_frequency",
    "ss_dataset_dirs",
    "ss_session_id",
    "ss_training_started_at",
    "ss_training_finished_at",
)


def merged(
    sources: Sequence[Mapping[str, str]], words: Sequence[str], names: Sequence[str], recipe: Mapping[str, Any]
) -> dict[str, str]:
    """Metadata of a merge of files with these names and metadata; `words` are the trigger words of all of them.

    What all say alike of the training and the base model stays; tag counts add up.
    """
    first = sources[0]
    found = {
        key: value
        for key, value in first.items()
        if key.startswith(("ss_", "modelspec."))
        and not key.startswith(_OWN)
        and all(s.get(key) == value for s in sources)
    }
    tags = [tag.strip() for source in sources for tag in source.get("modelspec.tags", "").split(",") if tag.strip()]
    if tags:
        found["modelspec.tags"] = ", ".join(dict.fromkeys(tags))
    found |= triggers.written(dict.fromkeys(words))
    counted = _tags(sources)
    if counted:
        found[triggers.TAGS] = json.dumps(spelled(counted), ensure_ascii=False, sort_keys=True)
    found["modelspec.merged_from"] = ", ".join(names)
    found["lorakit.merge"] = json.dumps(spelled(recipe), ensure_ascii=False, sort_keys=True)
    return found


def _tags(sources: Sequence[Mapping[str, str]]) -> dict[str, dict[str, int]]:
    """kohya's tag counts by folder of the training set, added; one file listed twice counts once."""
    total: dict[str, dict[str, int]] = {}
    for source in {source.get(triggers.TAGS, ""): source for source in sources}.values():
        for name, counts in triggers.tag_tables(source).items():
            mine = total.setdefault(name, {})
            for tag, count in counts.items():
                mine[tag] = mine.get(tag, 0) + count
    return total
