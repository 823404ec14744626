"""Latents computed once, before the first step; what made them can leave memory then.

On disk they are keyed by what they were made from: the bytes of the picture, its cut, the weights of the encoder. An
edited picture is encoded again, and no other; nothing stale can be read.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lorakit.data import masks
from lorakit.data.dataset import Example, size_of, unreadable, why_not
from lorakit.data.images import BadPicture, Crop, bucket, centre
from lorakit.errors import InputError
from lorakit.io.inputs import sha256_of
from lorakit.io.pack import Pack
from lorakit.models.fingerprint import Counts, encoder_hash
from lorakit.models.load import Components
from lorakit.runtime.workers import cores
from lorakit.talk import Tick
from lorakit.training.encoding import Bad, Encoder, EncoderView, Moments
from lorakit.training.placed import Hidden, Placed

_LATENTS = "latents.pack"
_IN_MEMORY = 2 << 30  # bytes of latents; more are read from the disk when they are asked for


@dataclass(frozen=True, kw_only=True)
class Cached:
    """A set of encoded pictures.

    placed    each as it is
    mirrored  each as its mirror image; empty where none is wanted
    repeats   how often an epoch shows each
    keys      names each picture by its content, whatever the file is called
    entries   the keys in the pack of all that belongs to the set
    """

    placed: Sequence[Placed]
    mirrored: Sequence[Placed]
    repeats: Sequence[int]
    keys: Sequence[str]
    counts: Counts = field(default_factory=Counts)
    entries: frozenset[bytes] = frozenset()

    def indices(self) -> list[int]:
        """Each example as often as an epoch shows it."""
        return [i for i, times in enumerate(self.repeats) for _ in range(times)]


def _digests(files: Sequence[Path]) -> list[str]:
    def one(file: Path) -> str:
        try:
            return sha256_of(file)
        except OSError:
            return ""  # told when it is read as a picture

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(one, files))


@dataclass(frozen=True)
class _Lazy(Sequence[Any]):
    """A sequence whose items are made when they are asked for: more latents than memory holds stay on the disk."""

    length: int
    make: Callable[[int], Any]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: Any) -> Any:
        if not -self.length <= i < self.length:
            raise IndexError(i)
        return self.make(i % self.length)


def _read(pack: Pack, key: bytes) -> Moments | None:
    arrays = pack.get(key)
    return None if arrays is None else (torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["spread"]))


class _LatentCache:
    """Moments by view, in memory and, where there is a pack, on the disk."""

    def __init__(self, pack: Pack | None, encoder: str) -> None:
        self.pack, self.encoder, self.counts = pack, encoder, Counts()
        self._memory: dict[bytes, Moments] | None = {}
        self._bytes = 0

    def _keep(self, key: bytes, moments: Moments) -> None:
        self._bytes += sum(x.nbytes for x in moments)
        if self.pack is not None and self._bytes > _IN_MEMORY:
            self._memory = None
        if self._memory is not None:
            self._memory[key] = moments

    def _known(self, key: bytes) -> Moments | None:
        return None if self.pack is None else _read(self.pack, key)

    def fill(self, components: Components, views: Sequence[EncoderView], bad: Bad, tick: Tick) -> None:
        """See that all views are there: read, or encoded and written, each at once, so that a crash loses none."""
        distinct = {view.key(self.encoder): view for view in views}
        missing: list[EncoderView] = []
        for key, view in distinct.items():
            if (found := self._known(key)) is None:
                missing.append(view)
                continue
            self._keep(key, found)
            self.counts.found += 1
            tick(self.counts.found, len(distinct))
        for done in Encoder(components, self.encoder, self._known).all(missing, bad):
            key = done.view.key(self.encoder)
            if self.pack is not None:
                if done.made:
                    mean, spread = done.moments
                    self.pack.put(done.content, {"mean": mean.numpy(), "spread": spread.numpy()})
                self.pack.same(key, done.content)
            self._keep(key, done.moments)
            self.counts.made += done.made
            self.counts.found += not done.made
            tick(self.counts.made + self.counts.found, len(distinct))
        if self.pack is not None:
            self.counts.damaged = self.pack.damaged
            self.pack.sync()

    def of(self, view: EncoderView) -> Moments:
        """The moments of a view that `fill` has seen to; InputError where the file on the disk was changed since."""
        key = view.key(self.encoder)
        found = self._memory.get(key) if self._memory is not None else self._known(key)
        if found is None:
            where = "the cache" if self.pack is None else self.pack.path
            raise InputError(f"{where} was changed while it was in use; run the same command again")
        return found


def _cut_of(example: Example, size: int, shape: tuple[int, int] | None, multiple: int) -> Crop | None:
    source = example.size or size_of(example.file)
    if source is None:
        return None
    if shape is None:
        square = 0.95 < source[0] / source[1] < 1.05
        return centre(source, (size, size)) if square else bucket(source, size, multiple)
    return centre(source, shape)


def _mask(example: Example, alpha: bool) -> Image.Image | None:
    """The picture's mask at the picture's size, grey; None where it has none."""
    source = example.size or size_of(example.file)
    if example.mask is not None and source is not None:
        return masks.of_file(example.mask, source)
    return masks.of_alpha(example.file) if alpha else None


def _cuts(
    components: Components,
    examples: Sequence[Example],
    size: int,
    *,
    shapes: Sequence[tuple[int, int]] | None,
    flip: bool,
    mask_weight: float | None,
    alpha: bool,
    bad: Bad,
) -> tuple[list[tuple[Crop, ...]], dict[tuple[int, bool], Tensor | None]]:
    """The cut of each picture, as it is and with `flip` mirrored, and the loss weights by (picture, whether mirrored) of
    those that have a mask; pictures and masks that cannot be used go to `bad`."""
    cuts: list[tuple[Crop, ...]] = []
    weights: dict[tuple[int, bool], Tensor | None] = {}
    for i, example in enumerate(examples):
        how = _cut_of(example, size, shapes[i] if shapes is not None else None, components.multiple)
        cuts.append(
            (how, replace(how, mirrored=True)) if how and flip else (how or Crop(box=(0, 0, 1, 1), size=(size, size)),)
        )
        try:
            if how is None:
                raise BadPicture(why_not(example.file))
            if mask_weight is not None and (mask := _mask(example, alpha)) is not None:
                for one in cuts[-1]:
                    latent = (one.size[0] // components.vae_factor, one.size[1] // components.vae_factor)
                    weights[i, one.mirrored] = masks.loss_weights(mask, one, latent, mask_weight)
        except BadPicture as reason:
            bad.add(example.file, reason)
    return cuts, weights


def cache_latents(
    components: Components,
    examples: Sequence[Example],
    size: int,
    flip: bool,
    tick: Tick,
    *,
    folder: Path | None = None,
    shapes: Sequence[tuple[int, int]] | None = None,
    mask_weight: float | None = None,
    alpha: bool = False,
    inpainting: tuple[int, int] | None = None,
    digests: Sequence[str] | None = None,
    encoder: str | None = None,
    encode: bool = True,
) -> Cached:
    """Encode every picture, cut from its middle, that the cache in `folder` does not hold.

    shapes          (width, height) each picture is cut to (data/buckets.py); default, `size` squared, or the shape of
                    that area nearest to its own
    folder          holds latents.pack; without it nothing is written. The bytes of the latents are the same either way
    mask_weight     what pixels outside the masks count, 0 to 1; None leaves masks alone
    alpha           where a picture has no mask beside it, its transparency is one
    inpainting      (masks to draw for each picture, seed)
    digests         sha256 of each file, where they are known already
    encoder         `encoder_hash` of the model, where it is known already
    encode          whether latents are wanted at all, and not their shapes alone: they are without numbers then
    raises          InputError that lists all pictures and masks that cannot be used
    """
    bad = Bad()
    digests = digests or _digests([example.file for example in examples])
    cuts, weights = _cuts(
        components, examples, size, shapes=shapes, flip=flip, mask_weight=mask_weight, alpha=alpha, bad=bad
    )
    if bad.names:
        raise InputError(unreadable(bad.names))
    if not encode:
        both = [[_bare(components, one, weights.get((i, one.mirrored))) for one in row] for i, row in enumerate(cuts)]
        turned = [row[1] for row in both if flip]
        return Cached(
            placed=[row[0] for row in both],
            mirrored=turned,
            repeats=[example.repeats for example in examples],
            keys=digests,
        )

    def views(i: int, one: Crop) -> list[EncoderView]:
        """What is encoded of a picture in one orientation: all of it, then what each drawn mask leaves of it."""
        seeds = [(inpainting[1], number) for number in range(inpainting[0])] if inpainting else []
        return [EncoderView(examples[i].file, digests[i], one, mask=mask) for mask in (None, *seeds)]

    latents = _LatentCache(Pack(folder / _LATENTS) if folder is not None else None, encoder or encoder_hash(components))
    every = [view for i, row in enumerate(cuts) for one in row for view in views(i, one)]
    latents.fill(components, every, bad, tick)
    if bad.names:
        raise InputError(unreadable(bad.names))

    def placed(i: int, turn: int) -> Placed:
        one = cuts[i][turn]
        whole, *covered = views(i, one)
        mean, spread = latents.of(whole)
        hidden = _Lazy(
            len(covered),
            lambda n: Hidden(masks.for_latents(covered[n].hole(), components.vae_factor), *latents.of(covered[n])),
        )
        return Placed(mean=mean, spread=spread, cut=one, mask=weights.get((i, one.mirrored)), hidden=hidden)

    return Cached(
        placed=_Lazy(len(cuts), lambda i: placed(i, 0)),
        mirrored=_Lazy(len(cuts) if flip else 0, lambda i: placed(i, 1)),
        repeats=[example.repeats for example in examples],
        keys=digests,
        counts=latents.counts,
        entries=frozenset(view.key(latents.encoder) for view in every),
    )


def _bare(components: Components, how: Crop, mask: Tensor | None) -> Placed:
    """A picture whose latents have a shape and no numbers."""
    width, height = (side // components.vae_factor for side in how.size)
    latents = torch.empty(components.vae.config.latent_channels, height, width, device="meta")
    return Placed(mean=latents, spread=latents, cut=how, mask=mask)


def tidy(folder: Path, sets: Sequence[Cached]) -> bool:
    """Drop from the cache in `folder` what belongs to none of the sets, where that is more than half of it."""
    return Pack(folder / _LATENTS).compact(key for cached in sets for key in cached.entries)
