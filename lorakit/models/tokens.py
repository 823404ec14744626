"""Learned tokens: a few rows beside the frozen table of a text encoder (Gal et al., 2023).

A token of several vectors stands in a prompt as one word and goes to the tokenizer as several: `<s1>`, `<s1>_1`,
`<s1>_2` ..., as diffusers spells them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lorakit.data.trigger_words import by_itself
from lorakit.errors import InputError, UsageError


class Rows(nn.Module):
    """The table of a text encoder, frozen and shared, and learned rows for the ids from `first` on."""

    def __init__(self, base: nn.Embedding, first: int, rows: Tensor) -> None:
        """rows [n, d]: kept in float32, whatever the table is in."""
        super().__init__()
        self.base, self.first = base, first
        self.rows = nn.Parameter(rows.detach().float().clone(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The frozen table."""
        return self.base.weight

    def forward(self, ids: Tensor) -> Tensor:
        """ids [b, t] to [b, t, d] in the table's dtype."""
        learned = ids >= self.first
        known = self.base(ids.masked_fill(learned, 0))
        rows = self.rows.to(known.dtype)[(ids - self.first).clamp(min=0)]
        return torch.where(learned[..., None], rows, known)


def table_of(text_encoder: Any) -> nn.Embedding:
    """The frozen table of a text encoder, with or without learned rows beside it."""
    table = text_encoder.get_input_embeddings()
    return table.base if isinstance(table, Rows) else table


def words(token: str, vectors: int) -> list[str]:
    """What a token of so many vectors is to the tokenizer."""
    return [token, *(f"{token}_{i}" for i in range(1, vectors))]


def spelled(prompt: str, vectors: Mapping[str, int]) -> str:
    """The prompt with each token of several vectors written out; longer names first, and no part of a longer word."""
    for token in sorted(vectors, key=len, reverse=True):
        if vectors[token] > 1:
            whole = " ".join(words(token, vectors[token]))
            prompt = re.sub(rf"(?<!\w){re.escape(token)}(?!_\d|\w)", whole.replace("\\", r"\\"), prompt)
    return prompt


def check_new(tokenizer: Any, token: str) -> None:
    """UsageError where the tokenizer knows the word already, so that learning it would change what other prompts mean."""
    if not token.strip() or any(c.isspace() for c in token):
        raise UsageError(f"--token '{token}': a token is one word without spaces, such as <s1>")
    known = tokenizer.get_vocab()
    if token in known or f"{token}</w>" in known:
        raise UsageError(
            f"--token {token}: the model's tokenizer knows this word already; choose another, such as <s1>"
        )


def start_rows(tokenizer: Any, table: nn.Embedding, text: str, vectors: int) -> Tensor:
    """Rows [vectors, d] in float32 that a token starts from: the words of `text` in turn, again from the first where
    they are fewer. UsageError where there are no words."""
    ids = tokenizer(text, add_special_tokens=False).input_ids if text.strip() else []
    if not ids:
        raise UsageError(f"--init-token '{text}': no words in it to start from")
    rows = table.weight.detach().float()[torch.tensor(ids, device=table.weight.device)]
    if vectors == 1:
        return rows.mean(0, keepdim=True)  # several words for one vector: between them
    return rows[torch.arange(vectors, device=rows.device) % len(ids)].clone()


class LearnedWords:
    """The learned words of adapter files, as prompts say them: whatever their case, and by other names too.

    The tokenizer knows their vectors by names that no text has, so that a word acts only where it stands by itself, and
    only while its adapter acts.
    """

    def __init__(self, vectors: Mapping[str, int], others: Mapping[str, str] | None = None, first: int = 0) -> None:
        """vectors  token to how many it has; others  another name of a token to the token; first  number of the first"""
        self.hidden = {
            token: [f"\ue000{first + i}.{n}\ue001" for n in range(count)]
            for i, (token, count) in enumerate(vectors.items())
        }
        self._said: dict[str, tuple[str, str]] = {}  # as a prompt says it to (the token, what the tokenizer is told)
        for name, token in {**(others or {}), **{token: token for token in vectors}}.items():
            self._said[name] = token, " ".join(self.hidden[token])
            for n, one in enumerate(self.hidden[token][1:], 1):
                self._said.setdefault(f"{name}_{n}", (token, one))
        self._folded = {_folded(name): name for name in reversed(self._said)}
        names = sorted(self._said, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_alone, names)), re.IGNORECASE) if names else None

    def names(self, token: str) -> list[str]:
        """What a prompt may call a token, its own name first."""
        whole = " ".join(self.hidden[token])
        return [token, *(name for name, (_, told) in self._said.items() if told == whole and name != token)]

    def find(self, name: str) -> str | None:
        """The token of this name, whatever its case."""
        exact = name if name in self._said else self._folded.get(_folded(name))
        return None if exact is None else self._said[exact][0]

    def split(self, text: str, acting: Iterable[str]) -> list[tuple[str, str | None]]:
        """The text in pieces: (plain text, None), or (what the tokenizer is told, the token) of those that act."""
        pieces, at, wanted = list[tuple[str, str | None]](), 0, set(acting)
        for found in self._pattern.finditer(text) if self._pattern and wanted else ():
            name = found[0] if found[0] in self._said else self._folded.get(_folded(found[0]), "")
            token, told = self._said.get(name, ("", ""))
            if token in wanted:
                pieces += [(text[at : found.start()], None)] * (at < found.start()) + [(told, token)]
                at = found.end()
        return [*pieces, (text[at:], None)] if at < len(text) or not pieces else pieces

    def shown(self, text: str) -> str:
        """A text out of the tokenizer with the names that people know."""
        for token, hidden in self.hidden.items():
            for name, one in zip(words(token, len(hidden)), hidden, strict=True):
                text = text.replace(one, name)
        return text


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()


def _alone(name: str) -> str:
    """A regular expression for a name that is no part of a longer word; blanks in it are as many as one likes."""
    inner = r"\s+".join(map(re.escape, name.split())) or re.escape(name)
    return (r"(?<!\w)" if re.match(r"\w", name) else "") + inner + (r"(?!\w)" if re.search(r"\w$", name) else "")


def add(
    tokenizers: Mapping[str, Any],
    encoders: Mapping[str, Any],
    tokens: Mapping[str, Mapping[str, Tensor]],
    source: str,
    hidden: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Rows]:
    """Give each text encoder its learned tokens, all in one `Rows`; part to that.

    tokenizers, encoders    by part: text_encoder, text_encoder_2
    tokens                  placeholder token to its vectors [n, d] by part
    hidden                  token to what the tokenizer knows its vectors by; without it, its own name
    InputError where a part has no vectors, they have another width, or a token is there already.
    """
    found = {}
    for part, encoder in encoders.items():
        if isinstance(encoder.get_input_embeddings(), Rows):
            raise InputError(f"{source}: the text encoder has learned tokens already")
        _check(tokens, part, table_of(encoder), source)
    for part, encoder in encoders.items():
        table, tokenizer = table_of(encoder), tokenizers[part]
        names = [
            word for token, by in tokens.items() for word in (hidden[token] if hidden else words(token, len(by[part])))
        ]
        first, there = len(tokenizer), tokenizer.get_added_vocab() if hidden else {}
        if not there.keys().isdisjoint(tokens) or _add_words(tokenizer, names) != len(names):
            raise InputError(f"{source}: the tokenizer has some of these tokens already: {', '.join(tokens)}")
        rows = Rows(table, first, torch.cat([by[part].float() for by in tokens.values()]).to(table.weight.device))
        encoder.set_input_embeddings(rows)
        found[part] = rows
    return found


def _check(tokens: Mapping[str, Mapping[str, Tensor]], part: str, table: nn.Embedding, source: str) -> None:
    width = table.weight.shape[1]
    for token, by in tokens.items():
        if part not in by:
            raise InputError(f"{source}: token {token} has no vectors for the model's {part}; it is for another family")
        if by[part].ndim != 2 or by[part].shape[1] != width:
            raise InputError(
                f"{source}: token {token} has vectors of {by[part].shape[-1]} numbers, the model's {part} has {width}"
            )


def _add_words(tokenizer: Any, names: Sequence[str]) -> int:
    from tokenizers import AddedToken

    # Not normalised: a token is found as it is spelled, capitals and all.
    return tokenizer.add_tokens([AddedToken(name, normalized=False, special=False) for name in names])


def take_out(encoders: Mapping[str, Any]) -> None:
    """Give the text encoders their own tables back."""
    for encoder in encoders.values():
        encoder.set_input_embeddings(table_of(encoder))


def split_rows(rows: Tensor, vectors: Mapping[str, int]) -> dict[str, Tensor]:
    """Rows [n, d] by token again."""
    return dict(zip(vectors, rows.split(list(vectors.values())), strict=True))


def missing(prompts: Iterable[str], tokens: Iterable[str]) -> list[str]:
    """Tokens that stand in none of the prompts."""
    text = list(prompts)
    return [token for token in tokens if not any(re.search(by_itself(token), t) for t in text)]
