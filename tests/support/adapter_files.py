"""Random adapters of a family, and of a model, for tests of files."""

from collections.abc import Callable, Iterable

import numpy as np

from lorakit.adapter import Adapter
from lorakit.deltas.low_rank import LowRank
from lorakit.families import Shape, table


def random_low_rank(shape: Shape, rank: int, alpha: float, draw: np.random.Generator, dtype: str = "f4") -> LowRank:
    kernel = shape[2:]
    down = draw.standard_normal((rank, *shape[1:])).astype(dtype)
    up = draw.standard_normal((shape[0], rank, *[1] * len(kernel))).astype(dtype)
    return LowRank(down, up * np.asarray(0.1, dtype), alpha)


def random_adapter(
    shapes: dict[str, Shape] | str,
    names: Iterable[str] | Callable[[str], bool] | None = None,
    *,
    ranks: tuple[int, ...] = (4,),
    alphas: tuple[float, ...] = (4.0,),
    seed: int = 0,
    dtype: str = "f4",
) -> Adapter:
    """Low-rank deltas for modules of a family's table (or of given shapes), ranks and alphas taken in turn."""
    weights = table(shapes) if isinstance(shapes, str) else shapes
    chosen = names if not callable(names) else filter(names, weights)
    chosen = [n for n in (chosen if chosen is not None else weights) if len(weights[n]) in (2, 4)]
    draw = np.random.default_rng(seed)
    return Adapter(
        modules={
            name: random_low_rank(weights[name], ranks[i % len(ranks)], alphas[i % len(alphas)], draw, dtype)
            for i, name in enumerate(chosen)
        },
        format="kohya",
    )


def attention(name: str) -> bool:
    return ".attn1." in name or ".attn2." in name


def small(name: str) -> bool:
    """A few modules of every shape and part: quick to write, compare and load."""
    return any(
        part in name
        for part in (
            "unet.down_blocks.1.attentions.0.",
            "unet.down_blocks.1.resnets.0.",
            "unet.conv_in",
            "unet.time_embedding",
            "encoder.layers.1.",
        )
    )
