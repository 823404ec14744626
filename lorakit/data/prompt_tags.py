"""What stands in prompts of other programs for files: the webuis' `<lora:name:0.8>` and ComfyUI's `embedding:name`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

LORA = frozenset(["lora", "lyco", "locon", "loha", "lokr"])  # what the webuis and their extensions call an adapter
_WORD = frozenset(["embedding", "embed"])  # an embedding, in SwarmUI
_FILE = re.compile(r"<(\w{1,40}):([^<>]{1,1000})>")
_EMBEDDING = re.compile(r"(?<![\w:<])embedding:([^\s,:;()\[\]<>|\"]{1,1000})", re.IGNORECASE)
# What other programs write in prompts and draw by, and how it is said here.
_FOREIGN = (
    (re.compile(r"\{[^{}]*\|[^{}]*\}"), "is not chosen from; write each prompt as a line of --prompts"),
    (re.compile(r"(?<!\w)__[\w/*-]{1,100}__(?!\w)"), "is no wildcard here; write each prompt as a line of --prompts"),
    (re.compile(r"&lt;.{1,200}?&gt;"), "has HTML's &lt; and &gt; for < and >; write these"),
    (
        re.compile(
            r"<(?:lora|lyco):[^<>]{1,200}(?=<|$)|(?<![\w<:;])(?:lora|lyco):[\w./-]{1,100}:[-+]?[\d.]+(?!\w)",
            re.IGNORECASE,
        ),
        "is no whole tag; write <lora:NAME:0.8>",
    ),
    (
        re.compile(
            r"\)(?:[+]{1,9}|-{2,9}|\d{1,3}(?:\.\d{1,3})?)(?=[\s,]|$)|\"\)?\)?\.(?:and|blend|swap)\([^()]{0,100}\)"
        ),
        "is a weight in another program; here it is (word:1.3)",
    ),
)


@dataclass(frozen=True, kw_only=True)
class PromptTag:
    """One tag for a file.

    spelled   as it stands in the prompt
    name      of the file, without its ending or with it
    weight    of the adapter in the UNet; `text` in the text encoders
    blocks    weights by block, a preset or numbers ("lbw"); "" for none
    unread    what else it says
    """

    spelled: str
    name: str
    weight: float = 1.0
    text: float = 1.0
    blocks: str = ""
    unread: tuple[str, ...] = field(default=())


def adapters(prompt: str) -> list[PromptTag]:
    """The tags for adapters, in order; ValueError for one whose weight is no number."""
    return [_tag(found) for found in _FILE.finditer(prompt) if found[1].lower() in LORA]


def _tag(found: re.Match[str]) -> PromptTag:
    name, *rest = found[2].split(":")
    if not name.strip():
        raise ValueError(f"{found[0]}: it names no adapter; write <lora:NAME:0.8>")
    named = dict(one.split("=", 1) for one in rest if "=" in one)
    numbers = [one for one in rest if "=" not in one]
    text = _number(named.pop("te", numbers[0] if numbers else "1"), found[0])
    weight = _number(named.pop("unet", numbers[1] if len(numbers) > 1 else f"{text}"), found[0])
    unread = [*numbers[2:], *(f"{key}={value}" for key, value in named.items() if key != "lbw")]
    return PromptTag(
        spelled=found[0], name=name.strip(), weight=weight, text=text, blocks=named.get("lbw", ""), unread=tuple(unread)
    )


def _number(text: str, tag: str) -> float:
    if not re.fullmatch(r"\s*[-+]?(?:\d{1,9}\.?\d{0,9}|\.\d{1,9})\s*", text):
        raise ValueError(f"{tag}: its weight {text.strip()!r} is no number")
    return float(text)


def spelled(prompt: str) -> list[str]:
    """The tags for adapters as they stand in the prompt."""
    return [found[0] for found in _FILE.finditer(prompt) if found[1].lower() in LORA]


def without_adapters(prompt: str) -> str:
    """The prompt without the tags for adapters; the words beside them stay as they are."""
    return _FILE.sub(lambda found: "" if found[1].lower() in LORA else found[0], prompt)


def embeddings(prompt: str) -> list[PromptTag]:
    """The tags for embeddings, in order."""
    return [PromptTag(spelled=found[0], name=_embedding(found)) for found in _each_embedding(prompt)]


def with_embeddings(prompt: str, word: Callable[[PromptTag], str | None]) -> str:
    """The prompt with each tag for an embedding replaced by a word; by None it is left as it is."""

    def change(found: re.Match[str]) -> str:
        new = word(PromptTag(spelled=found[0], name=_embedding(found)))
        return found[0] if new is None else new

    prompt = _EMBEDDING.sub(change, prompt)
    return _FILE.sub(lambda found: change(found) if found[1].lower() in _WORD else found[0], prompt)


def _each_embedding(prompt: str) -> list[re.Match[str]]:
    inside = [found for found in _FILE.finditer(prompt) if found[1].lower() in _WORD]
    return sorted([*_EMBEDDING.finditer(prompt), *inside], key=lambda found: found.start())


def _embedding(found: re.Match[str]) -> str:
    return (found[2] if found.re is _FILE else found[1]).strip().rstrip(".")


def foreign(prompt: str) -> list[tuple[str, str]]:
    """(what stands in the prompt and means something to another program alone, what to do about it)."""
    found = [(one[0], hint) for pattern, hint in _FOREIGN for one in pattern.finditer(prompt)]
    known = LORA | _WORD
    return found + [
        (one[0], "is a tag of another program, and lorakit has no such thing")
        for one in _FILE.finditer(prompt)
        if one[1].lower() not in known
    ]


def in_captions(captions: Iterable[str]) -> str:
    """A note on captions with tags for adapters, which belong in prompts; "" where there are none."""
    tagged = {caption: tags[0] for caption in captions if (tags := spelled(caption))}
    if not tagged:
        return ""
    several = f"{len(tagged)} captions have tags" if len(tagged) > 1 else "a caption has a tag"
    return f"{several} for adapters, such as {next(iter(tagged.values()))}, which is learned as words; take it out"
