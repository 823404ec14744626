"""Prompts as the webuis write them: weights in brackets, and as long as one likes.

`(word:1.2)` weighs a word, `(word)` is 1.1, `[word]` 1/1.1, nested ones multiply, `\\(` is a bracket, BREAK begins a new
stretch. A prompt longer than the text encoder reads is cut into stretches that are encoded each by itself, side by side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorakit.models.conditioning import Conditioning
from lorakit.models.encode import encode_ids, zeros
from lorakit.models.load import Components
from lorakit.models.tokens import LearnedWords, spelled

_ROUND, _SQUARE = 1.1, 1 / 1.1
_WEIGHT = re.compile(r":\s*+([-+]?(?:\d++\.?\d*+|\.\d++))\s*+\)")
_BREAK = re.compile(r"\bBREAK\b")


def parse(prompt: str) -> list[tuple[str, float]]:
    """Pieces of the prompt and their weights. Brackets without a partner are text."""
    pieces: list[tuple[str, float]] = []
    open_ones: list[tuple[str, int]] = []  # bracket, and the first piece inside
    text, i = "", 0

    def close(factor: float, first: int) -> None:
        pieces[first:] = [(piece, weight * factor) for piece, weight in pieces[first:]]

    while i < len(prompt):
        c = prompt[i]
        weight = _WEIGHT.match(prompt, i) if open_ones and open_ones[-1][0] == "(" else None
        if c == "\\" and prompt[i + 1 : i + 2] in ("(", ")", "[", "]", "\\"):
            text, i = text + prompt[i + 1], i + 2
            continue
        if c in "([" or weight or (c in ")]" and open_ones and open_ones[-1][0] == {")": "(", "]": "["}[c]):
            if text:
                pieces.append((text, 1.0))
                text = ""
            if weight:
                close(float(weight[1]), open_ones.pop()[1])
                i = weight.end()
                continue
            if c in "([":
                open_ones.append((c, len(pieces)))
            else:
                close(_ROUND if c == ")" else _SQUARE, open_ones.pop()[1])
            i += 1
            continue
        text, i = text + c, i + 1
    if text:
        pieces.append((text, 1.0))
    for bracket, first in reversed(open_ones):  # never closed
        pieces.insert(first, (bracket, 1.0))
    return _joined(pieces)


def _joined(pieces: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for text, weight in pieces:
        if found and found[-1][1] == weight:
            found[-1] = (found[-1][0] + text, weight)
        else:
            found.append((text, weight))
    return found


@dataclass(frozen=True, kw_only=True)
class PromptReading:
    """How prompts are read. plain: brackets are text. cut: what is longer than the model reads is left out. clip_skip
    counts as the webuis do, 1 is the model's own layer. words: the learned words of adapter files; acting: those of them
    that act, each with its weight, which is as that of a bracket around it."""

    plain: bool = False
    cut: bool = False
    clip_skip: int = 1
    words: LearnedWords | None = None
    acting: tuple[tuple[str, float], ...] = ()

    def pieces(self, text: str) -> list[tuple[str, float]]:
        """What the tokenizer is told of a text, in pieces with the weights of learned words."""
        if self.words is None or not self.acting:
            return [(text, 1.0)]
        weights = dict(self.acting)
        return [(piece, 1.0 if token is None else weights[token]) for piece, token in self.words.split(text, weights)]


@dataclass(frozen=True)
class Stretches:
    """A prompt's tokens for one text encoder: stretches of ids without ends and their weights; and what was left out."""

    ids: list[list[int]]
    weights: list[list[float]]
    lost: str = ""


def stretches(components: Components, part: str, prompt: str, reading: PromptReading) -> Stretches:
    tokenizer = components.tokenizers[part]
    room = tokenizer.model_max_length - 2
    ids: list[list[int]] = [[]]
    weights: list[list[float]] = [[]]
    for text, weight in [(prompt, 1.0)] if reading.plain else parse(prompt):
        for number, piece in enumerate([text] if reading.plain else _BREAK.split(text)):
            if number and ids[-1]:
                ids.append([])
                weights.append([])
            for told, own in reading.pieces(piece):
                for one in tokenizer(spelled(told, components.vectors), add_special_tokens=False).input_ids:
                    if len(ids[-1]) == room:
                        ids.append([])
                        weights.append([])
                    ids[-1].append(one)
                    weights[-1].append(weight * own)
    if not reading.cut or len(ids) == 1:
        return Stretches(ids, weights)
    lost = tokenizer.decode([one for more in ids[1:] for one in more])
    return Stretches(ids[:1], weights[:1], reading.words.shown(lost) if reading.words else lost)


def length(components: Components, prompt: str, reading: PromptReading) -> int:
    """How many stretches the prompt has."""
    return max(len(stretches(components, part, prompt, reading).ids) for part in components.text_encoders)


def lost(components: Components, prompt: str, reading: PromptReading) -> str:
    """What of the prompt the model does not read, where it is cut."""
    return max((stretches(components, part, prompt, reading).lost for part in components.text_encoders), key=len)


def encode(components: Components, prompt: str, reading: PromptReading, count: int = 1) -> Conditioning:
    """The conditioning of one prompt, of at least `count` stretches (empty ones follow), without sizes.

    A weight w puts a token's state w times as far from where the empty prompt has it. What the second text encoder
    pools is the first stretch's.
    """
    if components.zero_empty and not prompt:
        return zeros(components, count)
    by_part = [stretches(components, part, prompt, reading) for part in components.text_encoders]
    count = max(count, *(len(one.ids) for one in by_part))
    parts = [encode_ids(components, _rows(components, by_part, i), reading.clip_skip) for i in range(count)]
    if any(weight != 1 for one in by_part for weights in one.weights for weight in weights):
        empty = encode_ids(components, _rows(components, [], 0), reading.clip_skip).states
        sizes = [encoder.config.hidden_size for encoder in components.text_encoders.values()]
        weighed = []
        for i, one in enumerate(parts):
            weights = _spread(by_part, i, sizes, one.states)
            moved = empty + (one.states - empty) * weights
            weighed.append(torch.where(weights == 1, one.states, moved))  # to the bit
        return Conditioning(torch.cat(weighed, 1), parts[0].pooled)
    return Conditioning(torch.cat([one.states for one in parts], 1), parts[0].pooled)


def _rows(components: Components, by_part: Sequence[Stretches], i: int) -> list[Tensor]:
    """Stretch i with its ends, padded, for each text encoder [1, t]."""
    rows = []
    for number, tokenizer in enumerate(components.tokenizers.values()):
        ids = by_part[number].ids[i] if by_part and i < len(by_part[number].ids) else []
        row = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
        row += [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(row))
        rows.append(torch.tensor([row]))
    return rows


def _spread(by_part: Sequence[Stretches], i: int, sizes: Sequence[int], states: Tensor) -> Tensor:
    """The weight of each number of the states [1, t, d]: each encoder's tokens have their own."""
    columns = []
    for one, size in zip(by_part, sizes, strict=True):
        column = torch.ones(1, states.shape[1], 1, device=states.device, dtype=states.dtype)
        weights = one.weights[i] if i < len(one.weights) else []
        column[0, 1 : 1 + len(weights), 0] = torch.tensor(weights, dtype=states.dtype)
        columns.append(column.expand(-1, -1, size))
    return torch.cat(columns, -1)
