"""Which number format each part of a training has."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from lorakit.runtime.device import pick_dtype


@dataclass(frozen=True)
class Precision:
    """base      of the frozen model
    master    of what is trained, and of the optimizer's moments: always float32, or small steps would be lost
    compute   of the products; autocast makes it so where it is not base's
    scaled    whether the loss needs a `gradients.Scaler`: float16's smallest number is 6e-8
    """

    base: torch.dtype
    compute: torch.dtype
    device: torch.device
    master: torch.dtype = torch.float32

    @property
    def scaled(self) -> bool:
        return self.compute == torch.float16

    def autocast(self) -> AbstractContextManager[object]:
        """Around the forward pass. Off in float32: not entered with float32 as its dtype, which would warn. Off too on a CPU
        whose frozen weights are of the dtype already: layers and branches compute in it, and autocast would look for casts at
        every operator."""
        on = self.compute != torch.float32 and not (self.device.type == "cpu" and self.base == self.compute)
        return torch.autocast(self.device.type, self.compute if on else None, enabled=on)


def precision(name: str, device: torch.device, whole: bool) -> Precision:
    """`name` is --dtype: auto, float32, bfloat16 or float16.

    whole   the model itself is trained (`full`): its weights stay float32 and autocast computes in the dtype; for an
            adapter the frozen weights are kept in the dtype, half the memory
    """
    compute = pick_dtype(name, device)
    return Precision(torch.float32 if whole else compute, compute, device)
