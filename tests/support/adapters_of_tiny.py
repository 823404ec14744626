"""Random adapters of the built-in model, and the pictures they draw: for tests of commands in this process."""

from pathlib import Path
from typing import Any

import torch

from lorakit.adapter import Adapter
from lorakit.deltas.low_rank import LowRank
from lorakit.families import table
from lorakit.formats import writing


def lora(
    file: Path, seed: int, *, text: bool = False, size: float = 0.05, tokens: dict[str, Any] | None = None
) -> Path:
    """A random adapter of the built-in model's attention, and of its text encoder's where asked for."""
    draw = torch.Generator().manual_seed(seed)
    modules = {}
    for name, shape in table("tiny").items():
        if len(shape) == 2 and (".attn" in name or (text and name.startswith("text_encoder") and "self_attn" in name)):
            if name.startswith("text_encoder") and not text:
                continue
            down, up = torch.randn(2, shape[1], generator=draw), torch.randn(shape[0], 2, generator=draw)
            modules[name] = LowRank(down, up * size, 2.0)
    writing.save(file, Adapter(modules=modules, embeddings=tokens or {}), "kohya")
    return file


def pixels(file: Path) -> Any:
    import numpy as np
    from PIL import Image

    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))
