"""What every adapter file becomes: deltas by target module."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """delta = weight * up @ down * alpha / rank.

    down [rank, in] or [rank, in, kh, kw], up [out, rank] or [out, rank, 1, 1].
    """

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight it is added to."""
        return (self.up.shape[0], *self.down.shape[1:])

    def flat(self) -> tuple[Tensor, Tensor]:
        """(up [out, rank], down [rank, in*kh*kw]) in float32, scale not applied."""
        return self.up.float().flatten(1), self.down.float().flatten(1)

    def delta(self) -> Tensor:
        """Dense, shaped like the weight, float32."""
        up, down = self.flat()
        return (self.scale * up @ down).reshape(self.shape)


@dataclass(frozen=True)
class Adapter:
    """Target module names ("unet.down_blocks.0...", "text_encoder.text_model...") to their low-rank deltas."""

    modules: Mapping[str, LowRank]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def with_metadata(self, **metadata: str) -> "Adapter":
        return replace(self, metadata={**self.metadata, **metadata})
