"""Captions to what the denoiser is told: from a cache while the text encoders stand still, by a forward with gradient
while they learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from lorakit.models.conditioning import Conditioning
from lorakit.models.encode import conditioning_of, encode_ids, token_ids
from lorakit.models.fingerprint import weights_hash
from lorakit.models.load import Components
from lorakit.training.text_cache import TextCache


class Texts:
    """texts(step, captions): the conditioning, without sizes; with a gradient before step `until`.

    folder  keeps what text encoders that never learn make of captions, from run to run
    """

    def __init__(self, components: Components, until: int = 0, folder: Path | None = None) -> None:
        self.components, self.until = components, until
        name = ""
        if until == 0 and folder is not None:
            words = [str(sorted(tokenizer.get_vocab().items())) for tokenizer in components.tokenizers.values()]
            name = weights_hash(components.text_encoders.values(), components.zero_empty, *words)
        self._cache = TextCache(self._encode, name, folder if name else None)
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
        """Each encoded once by text encoders that do not change any more; float32 on the CPU."""
        with self._lock:
            found = self._cache.of(captions)
        states = torch.stack([tensors["states"] for tensors in found])
        pooled = torch.stack([tensors["pooled"] for tensors in found]) if "pooled" in found[0] else None
        return Conditioning(states, pooled)

    def fill(self, captions: Sequence[str]) -> None:
        """Encode what the cache lacks."""
        with self._lock:
            self._cache.of(sorted(set(captions)))

    @torch.no_grad()
    def now(self, captions: Sequence[str]) -> Conditioning:
        """As the text encoders stand at the moment; kept where they never change."""
        return self.still(captions) if self.until == 0 else conditioning_of(self.components, captions)[0]

    def _encode(self, captions: Sequence[str]) -> list[Mapping[str, Tensor]]:
        told, _ = conditioning_of(self.components, captions)
        fields = {"states": told.states} | ({} if told.pooled is None else {"pooled": told.pooled})
        return [{name: x[i] for name, x in fields.items()} for i in range(len(captions))]
