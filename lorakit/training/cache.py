"""Latents and text states computed once, before the first step; the parts that made them can leave memory then."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lorakit.data.dataset import Example
from lorakit.data.images import BadPicture, bucket, centre, cut, load
from lorakit.errors import InputError
from lorakit.models.encode import latent_moments, text_states, to_tensor
from lorakit.models.load import Components, is_small
from lorakit.runtime.workers import cores, each


@dataclass(frozen=True)
class Cached:
    """Of each example the mean and spread of its latents [c, h, w]; `mirrored` the same of its mirror image."""

    means: Sequence[Tensor]
    spreads: Sequence[Tensor]
    mirrored: Sequence[tuple[Tensor, Tensor]]
    captions: Sequence[str]
    repeats: Sequence[int]

    def indices(self) -> list[int]:
        """Each example as often as an epoch shows it."""
        return [i for i, times in enumerate(self.repeats) for _ in range(times)]


def cache_latents(
    components: Components,
    examples: Sequence[Example],
    size: int,
    flip: bool,
    tick: Callable[[int, int], None],
) -> Cached:
    """Encode every picture, cut to `size` (or its bucket where it is not square). InputError lists all bad ones."""
    bad = []

    def encode(example: Example) -> list[tuple[Tensor, Tensor]]:
        try:
            image = load(example.file)
        except BadPicture as reason:
            bad.append(f"{example.file.name} ({reason})")
            return []
        square = 0.95 < image.width / image.height < 1.05
        how = centre(image.size, (size, size)) if square else bucket(image.size, size, components.multiple)
        x = to_tensor(np.asarray(cut(image, how)))[None]
        views = [x, x.flip(3)] if flip else [x]
        return [(mean[0], spread[0]) for mean, spread in (latent_moments(components, view) for view in views)]

    encoded = []
    for views in each(encode, examples, cores()) if is_small(components) else map(encode, examples):
        encoded.append(views)
        tick(len(encoded), len(examples))
    if bad:
        bad.sort()
        raise InputError(
            f"{len(bad)} pictures cannot be read: {', '.join(bad[:3])}\nrun `lorakit ppim`, or remove them"
        )
    means, spreads = [views[0][0] for views in encoded], [views[0][1] for views in encoded]
    mirrored = [views[1] for views in encoded] if flip else []
    return Cached(means, spreads, mirrored, [e.caption for e in examples], [e.repeats for e in examples])


def cache_states(components: Components, captions: Sequence[str], note: Callable[[str], None]) -> dict[str, Tensor]:
    """States [tokens, d] of each distinct caption and of the empty one; too long captions are noted."""
    distinct = sorted({"", *captions})
    states, long = text_states(components, distinct)
    if long:
        note(
            f"{len(long)} captions are longer than the {components.tokenizer.model_max_length} tokens the model reads: {long[0]!r}"
        )
    return dict(zip(distinct, states.to("cpu", torch.float32), strict=True))
