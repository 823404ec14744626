"""LoRA: up @ down * alpha / rank (Hu et al., 2021)."""

from lorakit.training.variants._low_rank import LowRankBranch as Branch
from lorakit.training.variants._low_rank import scale, shapes, start

__all__ = ["Branch", "scale", "shapes", "start"]
