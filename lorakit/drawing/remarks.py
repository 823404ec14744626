"""What a prompt says beside words: brackets that change, prompts joined by AND, and tags of other programs. Each is drawn
as what it means or left out, and told in a note."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from lorakit.composition import wording
from lorakit.data import prompt_tags
from lorakit.data.prompt_tags import PromptTag
from lorakit.errors import shorten, some
from lorakit.models.tokens import LearnedWords

_SHOWN = 60  # letters of what stands in a prompt
_ENDINGS = (".safetensors", ".pt", ".ckpt", ".bin")
_MOST = 3  # things of a kind that are told


@dataclass(frozen=True)
class Remark:
    """One thing that stands in a prompt, and the sentence that tells things of its kind; `{}` is where they go."""

    about: str
    sentence: str


def of(text: str, negative: bool, plain: bool, steps: wording.Steps | None, words: LearnedWords) -> list[Remark]:
    """What there is to say of one prompt; `steps` are those of its drawing, where brackets in it change."""
    where = "the negative prompt" if negative else "the prompt"
    tags = list(dict.fromkeys(prompt_tags.spelled(text)))
    if plain:
        return [Remark(tag, "--plain-prompts draws {} as words") for tag in tags]
    found = [
        Remark(
            tag,
            f"left out of {where}: {{}} (the webuis' way to say an adapter; `lorakit sample` takes it as "
            f"{_option(tag)}, or finds it in --lora-dir FOLDER)",
        )
        for tag in tags
    ]
    found += [
        Remark(
            tag.spelled,
            f"left out of {where}: {{}}, for no such embedding is there; give `lorakit sample` its file with --lora, or the "
            "folder it is in with --lora-dir",
        )
        for tag in prompt_tags.embeddings(text)
        if _word(tag, words) is None
    ]
    found += [Remark(one, f"in {where} {{}} {hint}; it is drawn as words") for one, hint in prompt_tags.foreign(text)]
    rest = drawn(text, words)
    if steps is not None:
        changes = wording.told(wording.changing(rest), steps)
        found += [Remark(one, f"{where} changes as it is drawn, as in the webuis: {{}}") for one in changes]
    found += [
        Remark(one, "{} is not of the kind of [red:blue:0.5] or [red|blue]: its words are drawn, a little weaker")
        for one in wording.unread(rest)
    ]
    joined = wording.joined_by_and(rest)
    if len(joined) > 1:
        told = " and ".join(f"'{shorten(one, _SHOWN)}'{f' at {weight:g}' * (weight != 1)}" for one, weight in joined)
        sentence = (
            "AND is a word in a negative prompt: {}" if negative else "AND joins prompts, each guided by itself: {}"
        )
        found.append(Remark(told, sentence))
    return found


def _option(tag: str) -> str:
    try:
        (read,) = prompt_tags.adapters(tag)
    except ValueError:
        return "--lora FILE"
    file = read.name if PurePosixPath(read.name).suffix.lower() in _ENDINGS else f"{read.name}.safetensors"
    return f"--lora {shlex.quote(f'{file}:{read.weight:g}')}"


def lines(remarks: Iterable[Remark]) -> list[str]:
    """One line for the things of a kind, the first of them named."""
    kinds: dict[str, dict[str, None]] = {}
    for remark in remarks:
        kinds.setdefault(remark.sentence, {})[remark.about] = None
    return [
        sentence.replace("{}", some([shorten(one, 4 * _SHOWN) for one in about], _MOST, "; "))
        for sentence, about in kinds.items()
    ]


def drawn(text: str, words: LearnedWords) -> str:
    """The prompt without tags for adapters, with the words of the embeddings that it names; those that are not there are
    left out."""
    text = prompt_tags.without_adapters(text)
    return prompt_tags.with_embeddings(text, lambda tag: _escaped(_word(tag, words) or ""))


def _word(tag: PromptTag, words: LearnedWords) -> str | None:
    """The learned word that a tag names, as ComfyUI names it: by the file, with folder and ending or without."""
    path = PurePosixPath(tag.name)
    return next((found for name in (tag.name, path.name, path.stem) if (found := words.find(name)) is not None), None)


def _escaped(word: str) -> str:
    """A word whose brackets are no weights."""
    return re.sub(r"([()\[\]\\])", r"\\\1", word)
