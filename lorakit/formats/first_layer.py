"""What an adapter does to a UNet's first layer, made to fit a model that takes other inputs: for inpainting, 9 and not 4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from lorakit.adapter import Adapter
from lorakit.arrays import on_host, stored
from lorakit.delta import Delta
from lorakit.deltas.full import Full
from lorakit.deltas.low_rank import plain
from lorakit.errors import InputError
from lorakit.families import CONV_IN, INPAINTING, INPUTS, Shape
from lorakit.talk import Note

_LEFT = "the mask and the masked picture"


def fitted(adapter: Adapter, shapes: Mapping[str, Shape], file: Path, cut: bool, note: Note) -> Adapter:
    """The adapter for a model with modules of these shapes. An ordinary one acts on an inpainting model's noisy latents.

    cut     what an inpainting adapter does with the other inputs of its first layer is left out, for an ordinary model
    raises  InputError for an inpainting adapter where it is not to be cut
    """
    delta, wanted = adapter.modules.get(CONV_IN), shapes.get(CONV_IN)
    if delta is None or delta.shape is None or wanted is None or len(delta.shape) < 2 or len(wanted) != 4:
        return adapter
    kernel = wanted[2:]
    inputs = prod(delta.shape[1:]) // prod(kernel)
    if (inputs, wanted[1]) == (INPUTS, INPAINTING):
        note(
            f"{file}: the model's first layer takes {INPAINTING} inputs; the adapter acts on the {INPUTS} noisy latents"
        )
    elif (inputs, wanted[1]) != (INPAINTING, INPUTS):
        return adapter
    elif not cut:
        raise InputError(
            f"{file} is for inpainting: its first layer takes {INPAINTING} inputs and the model's {INPUTS}. Take an "
            f"inpainting model; or leave out what it does with {_LEFT}: sample and merge --into do with --cut-inputs"
        )
    if not delta.exact and not isinstance(delta, Full):
        raise InputError(f"{file}: {CONV_IN} is a {delta.kind} delta, whose inputs do not come apart")
    made = _at(delta, wanted[1], kernel)
    if cut and inputs > wanted[1]:
        lost = max(0.0, 1 - (made.norm() / delta.norm()) ** 2) if delta.norm() else 0.0
        note(
            f"{file}: left out: {inputs - wanted[1]} of the {inputs} inputs of {CONV_IN} ({_LEFT}), {lost:.1%} of its "
            "squared norm"
        )
    return replace(adapter, modules={**adapter.modules, CONV_IN: made})


def _at(delta: Delta, inputs: int, kernel: Shape) -> Delta:
    """The delta with its first so many inputs, those that it lacks at 0."""
    if isinstance(delta, Full):
        return Full(stored(_resized(on_host(delta.diff), inputs, kernel)))
    low = plain(delta)
    return replace(low, down=stored(_resized(on_host(low.down), inputs, kernel)))


def _resized(x: np.ndarray, inputs: int, kernel: Shape) -> np.ndarray:
    """[rows, inputs, *kernel] of [rows, other inputs, *kernel], flattened or not."""
    x = x.reshape(x.shape[0], -1, *kernel)
    found = np.zeros((x.shape[0], inputs, *kernel), x.dtype)
    count = min(inputs, x.shape[1])
    found[:, :count] = x[:, :count]
    return found
