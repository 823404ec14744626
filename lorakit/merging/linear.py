"""The exact weighted sum of deltas: factors side by side (Hu et al., 2021)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lorakit.deltas.low_rank import LowRank


def merge(parts: Sequence[LowRank | None], weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Each term's weight is split evenly over its factors, so that no factor is much larger than its twin."""
    ups, downs = [], []
    for part, weight in zip(parts, weights, strict=True):
        if part is None or weight == 0 or part.scale == 0:
            continue
        up, down = part.flat()
        factor = weight * part.scale
        root = abs(factor) ** 0.5
        ups.append(up * (factor / root))
        downs.append(down * root)
    if not ups:
        first = next(part for part in parts if part is not None)
        up, down = first.flat()
        return up[:, :0], down[:0]
    return torch.cat(ups, 1), torch.cat(downs, 0)
