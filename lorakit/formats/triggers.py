"""Trigger words: what a prompt must say for an adapter to act, as files of all trainers tell it.

`lorakit train` writes them where clients look: `modelspec.trigger_phrase`, `modelspec.usage_hint`, and kohya's tables
`ss_tag_frequency` {folder: {tag: pictures}} and `ss_dataset_dirs` {folder: {"n_repeats", "img_count"}}.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from lorakit.adapter import Adapter
from lorakit.data.prompt_tags import without_adapters
from lorakit.data.trigger_words import by_itself, contains
from lorakit.errors import InputError, some
from lorakit.io.plain import json_of, read_text

PHRASE, TITLE, HINT = "modelspec.trigger_phrase", "modelspec.title", "modelspec.usage_hint"
TAGS, FOLDERS, _CLASS_FOLDERS = "ss_tag_frequency", "ss_dataset_dirs", "ss_reg_dataset_dirs"
# Where others name the words: modelspec (OneTrainer, SwarmUI and more), SimpleTuner, Civitai, the webuis and their tools.
_KEYS = (
    PHRASE,
    "trained_words",
    "trainedWords",
    "ss_trigger_words",
    "trigger_words",
    "trigger_word",
    "trigger_phrase",
    "activation text",
    "instance_prompt",
)
CARRIED = (PHRASE, HINT, TAGS, FOLDERS)  # from a tuned model to the adapter that is extracted from it
_OURS = frozenset({"lorakit.config", "lorakit.merge"})  # files whose words are all needed: others list alternatives
_LONGEST, _MOST = 4096, 32  # letters of a list of words, and words of it, that are read; no person writes more
_SIDECARS = (".civitai.info", ".metadata.json", ".json")
_SIDECAR_BYTES = 1 << 20
# Words of a phrase that say nothing of the subject: prompts need not repeat them.
_FILLERS = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "by",
        "and",
        "with",
        "to",
        "my",
        "photo",
        "photograph",
        "picture",
        "image",
        "painting",
        "style",
    ]
)


@dataclass(frozen=True)
class Triggers:
    """The trigger words of one adapter.

    tokens    learned tokens: a prompt needs each
    phrases   words and phrases that are surely trigger words; a prompt needs one of them, or with `every` each
    tags      of the captions, the commonest first: (tag, pictures that have it)
    """

    tokens: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    every: bool = False
    tags: tuple[tuple[str, int], ...] = field(default=())

    @property
    def words(self) -> list[str]:
        """All that is sure: tokens, then phrases."""
        return list(dict.fromkeys([*self.tokens, *self.phrases]))

    def lacking(self, prompt: str, names: Callable[[str], Iterable[str]] = lambda token: (token,)) -> list[str]:
        """What a prompt lacks, each in quotes; alternatives are joined by "or". Nothing, where it has all it needs.

        names   what a learned token may be called, in any case
        """
        found = [repr(token) for token in self.tokens if not any(contains(prompt, name) for name in names(token))]
        text = _plain(prompt)
        missing = [phrase for phrase in self.phrases if phrase not in self.tokens and not _has(text, phrase)]
        if self.every:
            return found + [repr(phrase) for phrase in missing]
        if missing and len(missing) == len([p for p in self.phrases if p not in self.tokens]):
            found.append(some([repr(phrase) for phrase in missing], 3, " or "))
        return found


def _plain(text: str) -> str:
    """Without case, escapes of brackets and the underscores that tags are written with."""
    return text.casefold().replace("\\", "").replace("_", " ")


def _has(text: str, phrase: str) -> bool:
    """Whether all words of a phrase but fillers stand in a plain text, in any order."""
    words = [word for one in _plain(phrase).split() if (word := one.strip(".,;:!?\"'()[]"))]
    telling = [word for word in words if word not in _FILLERS] or words
    return all(re.search(by_itself(word), text) for word in telling)


def of_adapter(adapter: Adapter) -> Triggers:
    return read(adapter.metadata, adapter.embeddings)


def read(metadata: Mapping[str, str], tokens: Iterable[str] = ()) -> Triggers:
    """The trigger words that a file's metadata tells, and its learned tokens. What is malformed tells nothing.

    Where no key names the words, a tag that all captions have is one: kohya's files count tags and pictures.
    """
    named = [word for key in _KEYS if key in metadata for word in _listed(metadata[key])]
    tables = tag_tables(metadata)
    counts: Counter[str] = Counter()
    for table in tables.values():
        counts.update(table)
    phrases = named or _in_all(counts, tables, metadata)
    return Triggers(
        tuple(tokens),
        tuple(dict.fromkeys(phrases))[:_MOST],
        not _OURS.isdisjoint(metadata),
        tuple(counts.most_common()),
    )


def _listed(text: str) -> list[str]:
    """The words of a list: JSON, or text between commas, semicolons and ends of lines."""
    value: Any = text[:_LONGEST]
    if value.lstrip().startswith("["):
        value = _json(value) or value
    parts = value if isinstance(value, list) else re.split(r"[,;\n]", str(value))
    words = (" ".join(without_adapters(str(part)).split()) for part in parts)
    return [word for word in words if word and word.casefold() not in ("none", "null")]


def _json(text: str) -> Any:
    try:
        return json_of(text)
    except ValueError:
        return None


def _table(metadata: Mapping[str, str], key: str) -> dict[str, dict[str, Any]]:
    """A JSON table of tables; what is none is left out."""
    whole = _json(metadata.get(key, "{}"))
    rows = whole.items() if isinstance(whole, dict) else ()
    return {str(name): row for name, row in rows if isinstance(row, dict)}


def tag_tables(metadata: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """kohya's tag counts by folder of the training set, without those of class pictures."""
    classes = _table(metadata, _CLASS_FOLDERS).keys() - _table(metadata, FOLDERS).keys()
    return {
        name: {tag.strip(): n for tag, n in row.items() if _is_count(n) and tag.strip()}
        for name, row in _table(metadata, TAGS).items()
        if name not in classes
    }


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _in_all(
    counts: Mapping[str, int], tables: Mapping[str, Mapping[str, int]], metadata: Mapping[str, str]
) -> list[str]:
    """The tags that all captions have, in the order of the captions; none where the number of pictures is not known.

    ai-toolkit counts nothing, and writes its trigger word as the one tag of a folder `1_word`.
    """
    if all(list(table) == [name.partition("_")[2]] for name, table in tables.items()):
        return list(counts)
    folders = _table(metadata, FOLDERS)
    counted = [folders.get(name, {}).get("img_count") for name in tables]
    pictures = sum(count for count in counted if _is_count(count))
    if not all(map(_is_count, counted)) or pictures < 2:
        return []
    return [tag for tag, count in counts.items() if count >= pictures]


def beside(path: Path) -> dict[str, str]:
    """The trigger phrase that a file beside an adapter names, as metadata: Civitai's and the webuis' JSON files, and the
    README.md of a folder that diffusers wrote. Files that are large, damaged or strange tell nothing."""
    words: list[str] = []
    for ending in () if path.is_dir() else _SIDECARS:
        content = _json(_text(path.with_name(f"{path.stem}{ending}")) or "null")
        if isinstance(content, dict):
            inner = content.get("civitai")
            said = (inner if isinstance(inner, dict) else content).get("trainedWords") or content.get(
                "activation text", ""
            )
            words += _listed(json.dumps(said) if isinstance(said, list) else str(said))
    if path.is_dir() or path.name == "pytorch_lora_weights.safetensors":
        card = _text((path if path.is_dir() else path.parent) / "README.md")
        head = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
        prompt = re.search(r"^instance_prompt:[ \t]*(.+)$", head[1], re.MULTILINE) if head else None
        words += _listed(prompt[1].strip().strip("\"'")) if prompt else []
    return {PHRASE: ", ".join(dict.fromkeys(words))} if words else {}


def _text(file: Path) -> str:
    try:
        return read_text(file, "notes", _SIDECAR_BYTES) if file.is_file() else ""
    except (InputError, OSError):
        return ""


def written(words: Collection[str], title: str | None = None) -> dict[str, str]:
    """Metadata that tells an adapter's trigger words; `title` is what it is, "LoRA by lorakit". Empty without words."""
    if not words:
        return {}
    phrase = ", ".join(words)
    found = {PHRASE: phrase, HINT: f'write "{phrase}" in the prompt'}
    return found | ({TITLE: f"{phrase}: {title}"} if title else {})


def renamed(metadata: Mapping[str, str], old: str, new: str) -> dict[str, str]:
    """The metadata of an adapter whose learned token `old` is called `new`."""
    return {
        key: re.sub(by_itself(old), lambda match: new, value) if key in (PHRASE, TITLE, HINT) else value
        for key, value in metadata.items()
    }


def without(metadata: Mapping[str, str], tokens: Collection[str]) -> dict[str, str]:
    """The metadata of an adapter that learned tokens were taken out of; that all captions had them tells nothing now."""
    if not tokens:
        return dict(metadata)
    words = [word for word in _listed(metadata.get(PHRASE, "")) if word not in tokens]
    return {key: value for key, value in metadata.items() if key not in (PHRASE, TITLE, HINT, FOLDERS)} | written(words)
