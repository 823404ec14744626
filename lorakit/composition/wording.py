"""Prompts that change while a picture is drawn, as AUTOMATIC1111's webui has them.

`[red:blue:0.5]` is "red" for half of the steps and "blue" from then on, `[blue:0.5]` begins with nothing and `[red::0.5]`
ends with it; a whole number counts steps in place of a share. `[cat|dog]` takes turns, a step each. `a cat AND a dog:0.8`
are two prompts, each guided by itself. Pure functions of text; standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorakit.errors import UsageError

_AND = re.compile(r"\bAND\b")
_NUMBER = re.compile(r"[-+]?(?:\d{1,9}\.?\d{0,9}|\.\d{1,9})")
_PARTNER = {")": "(", "]": "["}
_ESCAPED = re.compile(r"\\([|:])")
_DEEPEST = 32  # brackets that change within one another; no person writes more


@dataclass(frozen=True)
class Steps:
    """The steps of a drawing: `done` of them are run, of `whole` that were asked for; `second` is the pass of --hires,
    which the numbers behind 1 and behind the last step of the first pass are for."""

    done: int
    whole: int
    second: bool = False

    def last(self, when: str) -> int:
        """The number, from 1, of the last step before a bracket with this number changes."""
        value = float(when)
        if "." in when:
            return min(self.whole, int((value - self.second) * self.whole))
        return min(self.whole, int(value) - (self.whole if self.second else 0))


@dataclass(frozen=True)
class Scheduled:
    """`[before:after:when]`, and the text that it is spelled with."""

    spelled: str
    before: Text
    after: Text
    when: str

    def at(self, step: int, steps: Steps) -> str:
        return render(self.before if step <= steps.last(self.when) else self.after, step, steps)


@dataclass(frozen=True)
class Alternating:
    """`[one|other|...]`, and the text that it is spelled with."""

    spelled: str
    options: tuple[Text, ...]

    def at(self, step: int, steps: Steps) -> str:
        return render(self.options[(step - 1) % len(self.options)], step, steps)


Text = tuple[str | Scheduled | Alternating, ...]


def joined_by_and(prompt: str) -> list[tuple[str, float]]:
    """The prompts that AND joins, and the weight behind each; a prompt without AND is itself, at 1."""
    pieces = _AND.split(prompt)
    return [(prompt, 1.0)] if len(pieces) == 1 else [_weighed(piece) for piece in pieces]


def _weighed(piece: str) -> tuple[str, float]:
    text, colon, weight = piece.rpartition(":")
    if colon and _NUMBER.fullmatch(weight.strip()):
        return text.strip(), float(weight)
    return piece.strip(), 1.0


def by_step(prompt: str, steps: Steps) -> list[str]:
    """What a prompt says in each step that is run; one text where it says the same in all."""
    text = parse(prompt)
    if all(isinstance(node, str) for node in text):
        return [prompt]
    return [render(text, step, steps) for step in range(1, steps.done + 1)] or [render(text, 1, steps)]


def render(text: Text, step: int, steps: Steps) -> str:
    """What a text says in one step, counted from 1."""
    return "".join(node if isinstance(node, str) else node.at(step, steps) for node in text)


def parse(prompt: str) -> Text:
    """The prompt as text and brackets that change; brackets that only weigh stay text. UsageError where they are nested
    beyond reason."""
    return tuple(_nodes(prompt, 0, len(prompt), _pairs(prompt), 0))


def changing(prompt: str) -> list[Scheduled | Alternating]:
    """The outermost brackets of a prompt that change with the step."""
    return [node for node in parse(prompt) if not isinstance(node, str)]


def unread(prompt: str) -> list[str]:
    """Square brackets that look as if they should change, and do not: a `:` or `|` is in them, and no number ends them."""
    pairs, taken, found = _pairs(prompt), 0, []
    for start in sorted(pairs):
        if prompt[start] == "[" and start >= taken:
            end = pairs[start]
            if (
                len(_pieces(prompt, start + 1, end, pairs, ":")) > 1
                or len(_pieces(prompt, start + 1, end, pairs, "|")) > 1
            ):
                taken = end
                if _bracket(prompt, start, end, pairs, 0) is None:
                    found.append(prompt[start : end + 1])
    return found


def _pairs(text: str) -> dict[int, int]:
    """Where the partner of each opening bracket is; one that holds a bracket without a partner has none."""
    found, opened, i = dict[int, int](), list[int](), 0
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] in "([":
            opened.append(i)
        elif text[i] in _PARTNER:
            if opened and text[opened[-1]] == _PARTNER[text[i]]:
                found[opened.pop()] = i
            else:
                opened.clear()
        i += 1
    return found


def _nodes(
    text: str, start: int, end: int, pairs: dict[int, int], depth: int
) -> Iterator[str | Scheduled | Alternating]:
    i = run = start
    while i < end:
        node = _bracket(text, i, pairs[i], pairs, depth) if text[i] == "[" and i in pairs else None
        if node is not None:
            yield _plain(text[run:i], depth)
            yield node
            i = run = pairs[i] + 1
        else:
            i += 2 if text[i] == "\\" else 1
    yield _plain(text[run:end], depth)


def _plain(text: str, depth: int) -> str:
    """In a bracket that changes, `|` and `:` may have a backslash before them, which goes."""
    return _ESCAPED.sub(r"\1", text) if depth else text


def _bracket(text: str, start: int, end: int, pairs: dict[int, int], depth: int) -> Scheduled | Alternating | None:
    """The bracket from `start` to its partner at `end`; None where it only weighs."""
    spelled = text[start : end + 1]

    def inner(piece: tuple[int, int]) -> Text:
        if depth == _DEEPEST:
            raise UsageError(f"the prompt has brackets that change within one another, more than {_DEEPEST} deep")
        return tuple(_nodes(text, *piece, pairs, depth + 1))

    *said, when = _pieces(text, start + 1, end, pairs, ":")
    if len(said) in (1, 2) and _NUMBER.fullmatch(text[slice(*when)].strip()):
        before, after = [(0, 0), *said][-2:]
        return Scheduled(spelled, inner(before), inner(after), text[slice(*when)].strip())
    options = _pieces(text, start + 1, end, pairs, "|")
    if len(options) == 1 or said:
        return None
    return Alternating(spelled, tuple(map(inner, options)))


def _pieces(text: str, start: int, end: int, pairs: dict[int, int], mark: str) -> list[tuple[int, int]]:
    """The stretches between the marks that stand in no inner bracket, as (from, to)."""
    found, i, first = list[tuple[int, int]](), start, start
    while i < end:
        if text[i] == mark:
            found.append((first, i))
            first = i + 1
        i = pairs[i] + 1 if i in pairs else i + 2 if text[i] == "\\" else i + 1
    return [*found, (first, end)]


def told(nodes: Sequence[Scheduled | Alternating], steps: Steps) -> list[str]:
    """What each bracket does, for a note."""
    return [
        f"{node.spelled} takes turns, a step each" if isinstance(node, Alternating) else _told(node, steps)
        for node in nodes
    ]


def _told(node: Scheduled, steps: Steps) -> str:
    last = min(max(steps.last(node.when), 0), steps.done)
    return f"{node.spelled} is {_words(node.before)} for {last} of {steps.done} steps, then {_words(node.after)}"


def _words(text: Text) -> str:
    whole = "".join(node if isinstance(node, str) else node.spelled for node in text).strip()
    return f"'{whole}'" if whole else "nothing"
