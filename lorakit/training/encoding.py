"""Pictures to the moments of their latents: decoded in threads ahead of the encoder, encoded together where that pays."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorakit.data import masks
from lorakit.data.images import BadPicture, Crop, cut, load
from lorakit.diffusion.noise import generator
from lorakit.models.encode import latent_moments, to_tensor
from lorakit.models.load import Components, is_small
from lorakit.runtime.workers import cores, each

_VERSION = "1"  # of how pictures are read and cut: a new number makes all latents anew
_BATCH_PIXELS = 4 * 512 * 512  # that go through the VAE of an accelerator together
Moments = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class EncoderView:
    """One thing to encode: a picture's cut, maybe with what a drawn mask covers taken out.

    digest  sha256 of the file's bytes
    mask    (seed, number) of the mask
    """

    file: Path
    digest: str
    cut: Crop
    mask: tuple[int, int] | None = None

    def _drawn(self) -> Tensor:
        assert self.mask is not None
        seed, number = self.mask
        return masks.draw(self.cut.size, generator(seed, "inpainting mask", self.digest, number))

    def hole(self) -> Tensor:
        """Its mask [1, h, w], from the picture's content and the number alone, mirrored where the picture is."""
        return self._turned(self._drawn())

    def _turned(self, x: Tensor) -> Tensor:
        return x.flip(2) if self.cut.mirrored else x

    def key(self, encoder: str) -> bytes:
        """Known before anything is decoded."""
        what = [self.digest, self.cut.box, self.cut.size, self.cut.pad, self.cut.mirrored, self.mask, encoder, _VERSION]
        return hashlib.sha256(json.dumps(what).encode()).digest()

    def pixels(self, whole: Tensor) -> Tensor:
        """What is encoded of the cut picture, which is not mirrored yet, [3, h, w] in -1..1."""
        return self._turned(masks.hidden(whole, self._drawn()) if self.mask else whole)


def content_key(pixels: Tensor, encoder: str) -> bytes:
    """Of what goes into the encoder: a file that was only given other notes, or another name, has the same."""
    digest = hashlib.sha256(f"{encoder} {tuple(pixels.shape)} ".encode())
    digest.update(pixels.contiguous().numpy().data)
    return digest.digest()


class Bad:
    """The names of pictures that cannot be used, with the reason."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def add(self, file: Path, reason: BadPicture) -> None:
        name = f"{file.name} ({reason})"
        if name not in self.names:
            self.names.append(name)


@dataclass
class EncodedView:
    """`made` where the encoder was asked, and not only the cache under another name."""

    view: EncoderView
    content: bytes
    moments: Moments
    made: bool


@dataclass
class Encoder:
    """The encoder of a model, its hash, and `known`, what a cache knows by content."""

    components: Components
    name: str
    known: Callable[[bytes], Moments | None] = lambda key: None

    def all(self, views: Sequence[EncoderView], bad: Bad) -> Iterator[EncodedView]:
        """Each view that can be read, in any order; the others go to `bad`."""

        groups: dict[tuple[Path, Crop], list[EncoderView]] = {}
        for view in views:
            groups.setdefault((view.file, _upright(view.cut)), []).append(view)

        def finished(group: list[EncoderView]) -> list[EncodedView]:
            return [done for pair in _pixels(group, bad) for done in self._finish([pair], 1)]

        if is_small(self.components):
            for found in each(finished, groups.values(), cores()):
                yield from found
            return
        waiting: list[tuple[EncoderView, Tensor]] = []
        ordered = sorted(groups.values(), key=lambda group: group[0].cut.size)
        for future in _ahead(ordered, lambda group: _pixels(group, bad), cores(), 2 * cores() + 8):
            for view, x in future.result():
                count = self._together(waiting[0][0]) if waiting else 0
                if waiting and (view.cut.size != waiting[0][0].cut.size or len(waiting) == count):
                    yield from self._finish(waiting, count)
                    waiting = []
                waiting.append((view, x))
        if waiting:
            yield from self._finish(waiting, self._together(waiting[0][0]))

    def _together(self, view: EncoderView) -> int:
        width, height = view.cut.size
        return 1 if self.components.device.type == "cpu" else max(1, _BATCH_PIXELS // (width * height))

    def _finish(self, pictures: list[tuple[EncoderView, Tensor]], count: int) -> list[EncodedView]:
        keys = [content_key(x, self.name) for _, x in pictures]
        there = [self.known(key) for key in keys]
        new = [x for (_, x), found in zip(pictures, there, strict=True) if found is None]
        made = iter(_moments(self.components, new, count)) if new else iter(())
        return [
            EncodedView(view, key, found or next(made), found is None)
            for (view, _), key, found in zip(pictures, keys, there, strict=True)
        ]


def _upright(how: Crop) -> Crop:
    return replace(how, mirrored=False)


def _pixels(group: list[EncoderView], bad: Bad) -> list[tuple[EncoderView, Tensor]]:
    """What goes into the encoder for all views of one cut and its mirror image, which is decoded once."""
    try:
        image = cut(load(group[0].file), _upright(group[0].cut))
    except BadPicture as reason:
        bad.add(group[0].file, reason)
        return []
    return [(view, view.pixels(to_tensor(np.asarray(image)))) for view in group]


def _moments(components: Components, pictures: list[Tensor], count: int) -> list[Moments]:
    """Always `count` at a time, filled up with the last: what a picture gives must not depend on how many are left."""
    filled = torch.stack(pictures + pictures[-1:] * (count - len(pictures)))
    means, spreads = latent_moments(components, filled)
    return [(means[i].clone(), spreads[i].clone()) for i in range(len(pictures))]


def _ahead(items: Sequence[Any], work: Callable[[Any], Any], workers: int, most: int) -> Iterator[Future[Any]]:
    """Futures of work(item) in order, at most `most` of them begun and not taken."""
    with ThreadPoolExecutor(workers) as pool:
        left = iter(items)
        begun = [pool.submit(work, item) for item in islice(left, most)]
        while begun:
            yield begun.pop(0)
            begun += [pool.submit(work, item) for item in islice(left, 1)]
