"""What a cached result depends on, and what came of a cache."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from lorakit.models import latents
from lorakit.models.load import Components


@dataclass
class Counts:
    """What came of a cache: entries that were there, that were encoded, and that were there but damaged."""

    found: int = 0
    made: int = 0
    damaged: int = 0


def weights_hash(modules: Iterable[nn.Module], *more: object, only: tuple[str, ...] = ("",)) -> str:
    """sha256 of weights whose names begin with one of `only`, how they are held, and of `more` that a result depends on."""
    digest = hashlib.sha256(json.dumps([str(one) for one in more]).encode())
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            if name.startswith(only):
                digest.update(f"\0{name} {tensor.dtype} {tensor.device.type}\0".encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def encoder_hash(components: Components) -> str:
    """Of the half of the VAE that encodes, on the kind of device it is on: that is what latents depend on."""
    config = components.vae.config
    scale = [config.get(key) for key in latents.KEYS]
    while scale and scale[-1] is None:  # what most models have is named as it was
        scale.pop()
    return weights_hash([components.vae], *scale, only=("encoder.", "quant_conv."))
