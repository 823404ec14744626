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


def add(
    tokenizers: Mapping[str, Any], encoders: Mapping[str, Any], tokens: Mapping[str, Mapping[str, Tensor]], source: str
) -> dict[str, Rows]:
    """Give each text encoder its learned tokens, all in one `Rows`; part to that.

    tokenizers, encoders    by part: text_encoder, text_encoder_2
    tokens                  placeholder token to its vectors [n, d] by part
    InputError where a part has no vectors, they have another width, or a token is there already.
    """
    found = {}
    for part, encoder in encoders.items():
        if isinstance(encoder.get_input_embeddings(), Rows):
            raise InputError(f"{source}: the text encoder has learned tokens already")
        table, tokenizer = table_of(encoder), tokenizers[part]
        _check(tokens, part, table, source)
        names = [word for token, by in tokens.items() for word in words(token, len(by[part]))]
        first = len(tokenizer)
        if _add_words(tokenizer, names) != len(names):
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


def split_rows(rows: Tensor, vectors: Mapping[str, int]) -> dict[str, Tensor]:
    """Rows [n, d] by token again."""
    return dict(zip(vectors, rows.split(list(vectors.values())), strict=True))


def missing(prompts: Iterable[str], tokens: Iterable[str]) -> list[str]:
    """Tokens that stand in none of the prompts."""
    text = list(prompts)
    return [token for token in tokens if not any(re.search(by_itself(token), t) for t in text)]
