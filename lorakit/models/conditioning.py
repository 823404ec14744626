"""What the denoiser is told beside the noisy latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Of b pictures: states [b, t, d] of the text; SDXL's pooled text [b, e] and sizes time_ids [b, 6], else None.

    A row of time_ids is (height, width) of the original picture, (top, left) of the crop, (height, width) asked for.
    """

    states: Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, which: int | slice | Sequence[int] | Tensor) -> Conditioning:
        """Some of the pictures; one number gives a batch of one."""
        chosen = slice(which, (which + 1) or None) if isinstance(which, int) else which
        return self._each(lambda x: x[chosen])

    def expand(self, count: int) -> Conditioning:
        """One picture's, for `count` pictures."""
        return self._each(lambda x: x.expand(count, *x.shape[1:]))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """Moved; sizes are not cast."""
        times = None if self.time_ids is None else self.time_ids.to(device)
        pooled = None if self.pooled is None else self.pooled.to(device, dtype)
        return Conditioning(self.states.to(device, dtype), pooled, times)

    def sized(
        self, target: tuple[int, int], original: tuple[int, int] | None = None, corner: tuple[int, int] = (0, 0)
    ) -> Conditioning:
        """With sizes for all pictures, (width, height) in pixels and the crop's (left, top); without `original` it was
        not cut. For a model that is not told sizes (no pooled text) nothing changes."""
        if self.pooled is None:
            return self
        width, height = original or target
        row = [height, width, corner[1], corner[0], target[1], target[0]]
        times = torch.tensor([row], dtype=torch.float32, device=self.states.device)
        return Conditioning(self.states, self.pooled, times.expand(len(self), -1))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        return Conditioning(*(None if x is None else change(x) for x in self._fields()))  # type: ignore[arg-type]

    def _fields(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self.states, self.pooled, self.time_ids

    @staticmethod
    def cat(several: Sequence[Conditioning]) -> Conditioning:
        """All pictures of several; ValueError where only some have pooled text or sizes, or states differ in tokens."""
        columns = list(zip(*(one._fields() for one in several), strict=True))
        joined: list[Tensor | None] = []
        for column in columns:
            there = [x for x in column if x is not None]
            if there and len(there) != len(column):
                raise ValueError("some of the conditionings have pooled text or sizes, others have none")
            joined.append(torch.cat(there) if there else None)
        return Conditioning(*joined)  # type: ignore[arg-type]
