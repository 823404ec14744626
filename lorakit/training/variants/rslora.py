"""rsLoRA: LoRA scaled by alpha / sqrt(rank), so that high ranks learn as fast as low ones (Kalajdzievski, 2023).

Written as plain LoRA with the alpha that gives this scale, which every client reads right.
"""

from lorakit.training.variants._low_rank import LowRankBranch as Branch
from lorakit.training.variants._low_rank import shapes, start

__all__ = ["Branch", "scale", "shapes", "start"]


def scale(rank: int, alpha: float) -> float:
    return alpha / rank**0.5
