"""Variants of trained adapters, one module each: what is learnt beside a frozen linear layer or convolution.

A variant's module defines
    scale(rank, alpha)           the factor on its delta
    shapes(weight_shape, spec)   parameter name to shape
    start(weight, spec, draw)    the same names to tensors, such that the delta is zero; draw(shape, name) gives
                                 standard normal numbers. ValueError for an init it does not have
    Branch                       a `_branch.Branch` over them: `forward` for its layer, `delta` as adapter files hold it,
                                 `take` to go on from one, `RAISED`, the parameters whose rate LoRA+ raises

`targets` finds the modules, `table` lists them, `attach` puts the branches there.
"""

from lorakit.training.variants._attach import Attached, Loaded, TargetRow, attach, table
from lorakit.training.variants._rules import PRESETS, Target, TargetRule, parse, targets

__all__ = ["PRESETS", "Attached", "Loaded", "Target", "TargetRow", "TargetRule", "attach", "parse", "table", "targets"]
