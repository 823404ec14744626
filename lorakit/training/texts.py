"""Captions to what the denoiser is told: from a table while the text encoders stand still, by a forward with gradient
while they learn."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import torch

from lorakit.models.conditioning import Conditioning
from lorakit.models.encode import conditioning_of, encode_ids, token_ids
from lorakit.models.load import Components


class Texts:
    """texts(step, captions): the conditioning, without sizes; with a gradient before step `until`."""

    def __init__(self, components: Components, until: int = 0) -> None:
        self.components, self.until = components, until
        self._table: dict[str, Conditioning] = {}
        self._lock = Lock()

    def __call__(self, step: int, captions: Sequence[str]) -> Conditioning:
        if step >= self.until:
            return self.still(captions)
        told = encode_ids(self.components, token_ids(self.components, captions))
        if self.components.zero_empty and "" in captions:
            shown = torch.tensor([bool(caption) for caption in captions], device=told.states.device)
            told = Conditioning(
                told.states * shown[:, None, None], None if told.pooled is None else told.pooled * shown[:, None]
            )
        return told

    def still(self, captions: Sequence[str]) -> Conditioning:
        """Each encoded once by text encoders that do not change any more."""
        with self._lock:
            self.fill(captions)
        return Conditioning.cat([self._table[caption] for caption in captions])

    def fill(self, captions: Sequence[str]) -> list[str]:
        """Encode what the table lacks; gives the captions longer than the model reads."""
        new = sorted(set(captions) - self._table.keys())
        if not new:
            return []
        told, cut = conditioning_of(self.components, new)
        self._table |= {caption: told[i].to(dtype=torch.float32) for i, caption in enumerate(new)}
        return cut

    @torch.no_grad()
    def now(self, captions: Sequence[str]) -> Conditioning:
        """As the text encoders stand at the moment; kept where they never change."""
        return self.still(captions) if self.until == 0 else conditioning_of(self.components, captions)[0]
