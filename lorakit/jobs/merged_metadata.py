"""What a merged adapter says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lorakit.data.naming import spelled
from lorakit.io.plain import json_object

# Of one file alone, or written anew.
_OWN = (
    "modelspec.title", "modelspec.hash", "modelspec.thumbnail", "modelspec.date", "modelspec.merged_from",
    "modelspec.trigger_phrase", "modelspec.tags", "modelspec.implementation", "ss_network_", "ss_output_name",
    "ss_tag_frequency", "ss_session_id", "ss_training_started_at", "ss_training_finished_at",
)  # fmt: skip
_LISTS = ("modelspec.trigger_phrase", "modelspec.tags")


def merged(sources: Sequence[Mapping[str, str]], names: Sequence[str], recipe: Mapping[str, Any]) -> dict[str, str]:
    """Metadata of a merge of files with these names and metadata.

    What all say alike of the training and the base model stays; tag counts add up; trigger words are joined.
    """
    first = sources[0]
    found = {
        key: value
        for key, value in first.items()
        if key.startswith(("ss_", "modelspec."))
        and not key.startswith(_OWN)
        and all(s.get(key) == value for s in sources)
    }
    for key in _LISTS:
        words = [word.strip() for source in sources for word in source.get(key, "").split(",") if word.strip()]
        if words:
            found[key] = ", ".join(dict.fromkeys(words))
    tags = _tags(sources)
    if tags:
        found["ss_tag_frequency"] = json.dumps(spelled(tags), ensure_ascii=False, sort_keys=True)
    found["modelspec.merged_from"] = ", ".join(names)
    found["lorakit.merge"] = json.dumps(spelled(recipe), ensure_ascii=False, sort_keys=True)
    return found


def _tags(sources: Sequence[Mapping[str, str]]) -> dict[str, dict[str, int]]:
    """kohya's tag counts by data set, added; one file listed twice counts once. What is no such table is left out."""
    total: dict[str, dict[str, int]] = {}
    for text in dict.fromkeys(source.get("ss_tag_frequency", "") for source in sources):
        try:
            table = json_object(text or "{}")
        except ValueError:
            continue
        for name, counts in table.items():
            if isinstance(counts, dict):
                mine = total.setdefault(str(name), {})
                for tag, count in counts.items():
                    if isinstance(count, int) and not isinstance(count, bool):
                        mine[tag] = mine.get(tag, 0) + count
    return total
