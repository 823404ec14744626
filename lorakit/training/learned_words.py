"""What the modes that learn tokens share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lorakit.config import TrainConfig
from lorakit.diffusion.noise import normal
from lorakit.models import tokens
from lorakit.models.load import Components
from lorakit.training.loop import ParameterGroup


class Learned:
    """The learned tokens of a run, put into the model's text encoders; nothing else of them is a parameter."""

    def __init__(self, components: Components, config: TrainConfig) -> None:
        self.components, self._before = components, components.tokenizers
        _use(components, copy.deepcopy(self._before))
        self.vectors = dict.fromkeys(config.token, config.vectors)
        self.norm = config.token_norm
        tokenizers, encoders = components.tokenizers, components.text_encoders
        for token in config.token:
            for tokenizer in tokenizers.values():
                tokens.check_new(tokenizer, token)
        starts = config.init_token or [""]
        texts = dict(zip(config.token, starts * len(config.token) if len(starts) == 1 else starts, strict=True))
        begin = {
            token: {
                part: _start(tokenizers[part], tokens.table_of(encoder), text, config, f"{part}/{token}")
                for part, encoder in encoders.items()
            }
            for token, text in texts.items()
        }
        self.begin = begin
        self.rows = tokens.add(tokenizers, encoders, begin, "--token")
        components.vectors |= self.vectors
        for rows in self.rows.values():
            rows.rows.requires_grad_(True)

    def group(self, rate: Callable[[int], float], learns: Callable[[int], bool], weight: float = 1.0) -> ParameterGroup:
        parameters = {f"tokens.{part}": rows.rows for part, rows in self.rows.items()}
        return ParameterGroup(name="tokens", parameters=parameters, rate=rate, learns=learns, weight=weight)

    def after(self, step: int, rates: Mapping[str, float]) -> None:
        """Draw each vector's norm to `norm`, by a share that grows with the rate (Ryu, cloneofsimo/lora, 2022)."""
        if self.norm and "tokens" in rates:
            share = min(1.0, 100 * rates["tokens"])
            for rows in self.rows.values():
                now = rows.rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
                rows.rows.mul_((now + share * (self.norm - now)) / now)

    @contextmanager
    def bare(self) -> Iterator[None]:
        """The untouched text encoders and tokenizers inside the `with`."""
        components, mine, vectors = self.components, self.components.tokenizers, dict(self.components.vectors)
        _use(components, copy.deepcopy(self._before))
        components.vectors.clear()
        for part, encoder in components.text_encoders.items():
            encoder.set_input_embeddings(self.rows[part].base)
        try:
            yield
        finally:
            _use(components, mine)
            components.vectors.clear()
            components.vectors.update(vectors)
            for part, encoder in components.text_encoders.items():
                encoder.set_input_embeddings(self.rows[part])

    def unmoved(self) -> list[str]:
        """The tokens that have learned nothing in any text encoder."""
        return [
            token
            for token, by_part in self.embeddings().items()
            if all(torch.equal(x.cpu(), self.begin[token][part].float().cpu()) for part, x in by_part.items())
        ]

    def embeddings(self) -> dict[str, dict[str, Tensor]]:
        """Token to its vectors [n, d] by part."""
        by_part = {part: tokens.split_rows(rows.rows.detach(), self.vectors) for part, rows in self.rows.items()}
        return {token: {part: found[token] for part, found in by_part.items()} for token in self.vectors}


def _use(components: Components, tokenizers: Mapping[str, Any]) -> None:
    components.tokenizer = tokenizers["text_encoder"]
    components.tokenizer_2 = tokenizers.get("text_encoder_2")


def _start(tokenizer: object, table: torch.nn.Embedding, text: str, config: TrainConfig, key: str) -> Tensor:
    """Rows [vectors, d]: of the words given, or, where there are none, drawn as the table's own rows are spread."""
    if text:
        return tokens.start_rows(tokenizer, table, text, config.vectors)
    weight = table.weight.detach().float()
    draw = normal((config.vectors, weight.shape[1]), config.seed, "tokens", key)
    return weight.mean(0).cpu() + draw * weight.std(0).cpu()
