"""Latents computed once, before the first step; what made them can leave memory then.

On disk they are keyed by what they were made from: the bytes of the picture, its cut, the weights of the encoder. An
edited picture is encoded again, and no other; nothing stale can be read.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorakit.data import masks
from lorakit.data.dataset import Example, size_of, unreadable, why_not
from lorakit.data.images import BadPicture, Cut, bucket, centre
from lorakit.errors import InputError
from lorakit.io.inputs import sha256_of
from lorakit.io.pack import Pack
from lorakit.models.load import Components
from lorakit.runtime.workers import cores
from lorakit.training.encoding import Bad, Encoder, Moments, View
from lorakit.training.fingerprint import Counts, encoder_hash

_LATENTS = "latents.pack"
_IN_MEMORY = 2 << 30  # bytes of latents; more are read from the disk when they are asked for


@dataclass(frozen=True)
class Cached:
    """Of each example the mean and spread of its latents [c, h, w]; `mirrored` the same of its mirror image.

    keys    names each picture by its content, whatever the file is called
    cuts    how each was cut from its picture
    masks   loss weights [1, h, w] of each, or None where all pixels count the same
    entries the keys in the pack of all that belongs to it
    hidden  for inpainting: of each the masks [1, h, w] of its latents, and mean and spread of the picture without what
            the mask covers
    """

    means: Sequence[Tensor]
    spreads: Sequence[Tensor]
    mirrored: Sequence[Moments]
    captions: Sequence[str]
    repeats: Sequence[int]
    keys: Sequence[str] = ()
    cuts: Sequence[Cut] = ()
    masks: Sequence[Tensor | None] = ()
    hidden: Sequence[Sequence[tuple[Tensor, Tensor, Tensor]]] = ()
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


class _OnDisk(Sequence[Any]):
    """Moments that are read from a pack when they are asked for; `pick` takes what is wanted of them."""

    def __init__(self, pack: Pack, keys: Sequence[bytes], pick: Callable[[Moments], Any]) -> None:
        self._pack, self._keys, self._pick = pack, keys, pick

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, i: Any) -> Any:
        found = _read(self._pack, self._keys[i])
        if found is None:
            raise InputError(f"{self._pack.path} was changed while it was in use; run the same command again")
        return self._pick(found)


def _read(pack: Pack, key: bytes) -> Moments | None:
    arrays = pack.get(key)
    return None if arrays is None else (torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["spread"]))


class _Latents:
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

    def fill(self, components: Components, views: Sequence[View], bad: Bad, tick: Callable[[int, int], None]) -> None:
        """See that all views are there: read, or encoded and written, each at once, so that a crash loses none."""
        distinct = {view.key(self.encoder): view for view in views}
        missing: list[View] = []
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

    def of(self, views: Sequence[View], pick: Callable[[Moments], Any]) -> Sequence[Any]:
        keys = [view.key(self.encoder) for view in views]
        if self._memory is not None:
            return [pick(self._memory[key]) for key in keys]
        assert self.pack is not None
        return _OnDisk(self.pack, keys, pick)


def _cut_of(example: Example, size: int, shape: tuple[int, int] | None, multiple: int) -> Cut | None:
    source = example.size or size_of(example.file)
    if source is None:
        return None
    if shape is None:
        square = 0.95 < source[0] / source[1] < 1.05
        return centre(source, (size, size)) if square else bucket(source, size, multiple)
    return centre(source, shape)


def _weights(example: Example, how: Cut, factor: int, unmasked: float, alpha: bool) -> Tensor | None:
    latent = (how.size[0] // factor, how.size[1] // factor)
    source = example.size or size_of(example.file)
    mask = None
    if example.mask is not None and source is not None:
        mask = masks.of_file(example.mask, source)
    elif alpha:
        mask = masks.of_alpha(example.file)
    return None if mask is None else masks.loss_weights(mask, how, latent, unmasked)


def cache_latents(
    components: Components,
    examples: Sequence[Example],
    size: int,
    flip: bool,
    tick: Callable[[int, int], None],
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
    wanted = shapes if shapes is not None else [None] * len(examples)
    cuts, weights = [], list[Tensor | None]()
    for example, shape in zip(examples, wanted, strict=True):
        how = _cut_of(example, size, shape, components.multiple)
        try:
            if how is None:
                raise BadPicture(why_not(example.file))
            if mask_weight is not None:
                weights.append(_weights(example, how, components.vae_factor, mask_weight, alpha))
        except BadPicture as reason:
            bad.add(example.file, reason)
        cuts.append(how or Cut((0, 0, 1, 1), (size, size)))
    if bad.names:
        raise InputError(unreadable(bad.names))

    plain = [View(e.file, digest, how) for e, digest, how in zip(examples, digests, cuts, strict=True)]
    mirrors = [View(view.file, view.digest, view.cut, mirrored=True) for view in plain] if flip else []
    if not encode:
        means = [_shaped(components, how) for how in cuts]
        captions, repeats = [e.caption for e in examples], [e.repeats for e in examples]
        return Cached(means, means, [(x, x) for x in means], captions, repeats, digests, cuts, weights)
    count, seed = inpainting or (0, 0)
    covered = [[View(v.file, v.digest, v.cut, mask=(seed, number)) for number in range(count)] for v in plain]
    pack = Pack(folder / _LATENTS) if folder is not None else None
    latents = _Latents(pack, encoder or encoder_hash(components))
    views = [*plain, *mirrors, *(view for row in covered for view in row)]
    latents.fill(components, views, bad, tick)
    if bad.names:
        raise InputError(unreadable(bad.names))
    return Cached(
        latents.of(plain, lambda moments: moments[0]),
        latents.of(plain, lambda moments: moments[1]),
        latents.of(mirrors, lambda moments: moments),
        [e.caption for e in examples],
        [e.repeats for e in examples],
        digests,
        cuts,
        weights,
        [_hidden(row, latents, components.vae_factor) for row in covered] if count else [],
        latents.counts,
        frozenset(view.key(latents.encoder) for view in views),
    )


def _shaped(components: Components, how: Cut) -> Tensor:
    """A tensor of the shape that the latents of a cut have, without numbers."""
    width, height = (side // components.vae_factor for side in how.size)
    return torch.empty(components.vae.config.latent_channels, height, width, device="meta")


def tidy(folder: Path, sets: Sequence[Cached]) -> bool:
    """Drop from the cache in `folder` what belongs to none of the sets, where that is more than half of it."""
    return Pack(folder / _LATENTS).compact(key for cached in sets for key in cached.entries)


def _hidden(views: list[View], latents: _Latents, factor: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    found = latents.of(views, lambda moments: moments)
    return [(masks.for_latents(view.drawn(), factor), *one) for view, one in zip(views, found, strict=True)]
