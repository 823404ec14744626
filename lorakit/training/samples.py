"""What a step sees: pictures, captions, noise and timesteps, each a function of (seed, step, place in the step)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lorakit.config import TrainConfig
from lorakit.data.captions import CaptionRules, caption_at, captions_of
from lorakit.diffusion import noise as noises
from lorakit.diffusion import timesteps as times
from lorakit.diffusion.timesteps import Timesteps
from lorakit.training.batches import Batches
from lorakit.training.cache import Cached
from lorakit.training.placed import Placed
from lorakit.training.teacher import DRAWS, Teacher


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One picture as a step shows it. Latents, noise and what is seen of it are [c, h, w].

    seen      noise that the input is made of; with perturbation not what is to be said
    weight    of its loss in the step's
    place     in the step
    key       what its dropout is drawn by
    taught    what is to be said of it, where that is not the schedule's target
    inpaint   [c + 1, h, w] for a model that inpaints
    sizes     (width, height) before it was cut, (left, top) of the cut, both at the scale it is shown at
    """

    name: str
    caption: str
    latents: Tensor
    noise: Tensor
    seen: Tensor
    timestep: int
    weight: float
    place: int
    key: tuple[int | str, ...]
    mask: Tensor | None = None
    inpaint: Tensor | None = None
    taught: Tensor | None = None
    sizes: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))


@dataclass(kw_only=True)
class TrainingSource:
    """A set of encoded pictures, how many of them a step shows, their weight in the loss, and what becomes of captions.

    batch   places in a step, of all processes and micro-steps together
    teacher says what its pictures are learnt from: each is shown with one of a few timesteps and noises then
    """

    name: str
    cached: Cached
    captions: Sequence[Sequence[str]]
    batch: int
    weight: float = 1.0
    rules: CaptionRules = field(default_factory=CaptionRules)
    originals: Sequence[tuple[int, int]] = ()
    seed: int = 0
    teacher: Teacher | None = None

    def __post_init__(self) -> None:
        self.shown = self.cached.indices()
        shapes = self.shapes()
        self.groups = [shapes[i] for i in self.shown]
        self.batches = Batches(groups=self.groups, size=self.batch, seed=self.seed, name=self.name, pictures=self.shown)
        counts: dict[int, int] = {}
        self._keys = []
        for i in self.shown:
            counts[i] = counts.get(i, 0) + 1
            self._keys.append(self.cached.keys[i] + (f"/{counts[i]}" if counts[i] > 1 else ""))

    def shapes(self) -> list[tuple[int, ...]]:
        """(c, h, w) of each picture's latents."""
        return [tuple(placed.mean.shape) for placed in self.cached.placed]

    def caption(self, at: int, epoch: int) -> str:
        """Of the picture at a place of an epoch's pictures."""
        return caption_at(self.captions[self.shown[at]], self.rules, self.seed, epoch, self._keys[at])

    def settled(self, i: int, number: int) -> str:
        """The caption number `number` that picture i is measured with: nothing is left out of it by chance."""
        return caption_at(self.captions[i], self.rules.settled(), self.seed, number, self.cached.keys[i])

    def all_captions(self, epochs: int, most: int) -> set[str] | None:
        """All captions that the first epochs show; None where they are more than `most`."""
        found: set[str] = set()
        for at, i in enumerate(self.shown):
            mine = captions_of(self.captions[i], self.rules, self.seed, epochs, self._keys[at])
            found |= set(mine or ())
            if mine is None or len(found) > most:
                return None
        return found


class Draws:
    """The samples of a step. Each draws from generators of its own, one a purpose, so that batch size, order, other
    options and restarts leave it alone."""

    def __init__(self, sources: Sequence[TrainingSource], config: TrainConfig, distribution: Timesteps) -> None:
        self.sources, self.config, self.distribution = sources, config, distribution

    def at(self, step: int) -> list[Sample]:
        """All samples of a step, of all processes; their weights sum to the sources'."""
        found: list[Sample] = []
        for source in self.sources:
            chosen = source.batches.places(step)
            share = source.weight / len(chosen)
            keys, timesteps = self._keys(source, step, [at for _, at in chosen])
            for place, (epoch, at) in enumerate(chosen):
                caption, dropout = source.caption(at, epoch), (self.config.seed, source.name, step, place, "dropout")
                found.append(
                    self._one(
                        source, source.shown[at], caption, keys[place], timesteps[place], len(found), share, dropout
                    )
                )
        return found

    def held_out(self, source: TrainingSource, i: int, stratum: int, strata: int) -> Sample:
        """Picture i of a set that is not trained on, always with the same noise and the same timestep, which lies in one of
        `strata` equal shares of those that training draws; its caption is the one that training would show, whole and in order."""
        key = (self.config.seed, "validation", source.cached.keys[i], stratum)
        u = (stratum + times.uniform_number(noises.generator(*key, "timestep"))) / strata
        return self._one(source, i, source.settled(i, stratum), key, int(self.distribution.at(u)), 0, 1.0, ())

    def taught(self, source: TrainingSource) -> dict[tuple[int, int], Sample]:
        """By (picture, draw) all that a source with a teacher can show."""
        found = {}
        for at, i in enumerate(source.shown):
            for number in range(DRAWS):
                key = self._taught_key(source, i, number)
                t = int(self.distribution.at(times.uniform_number(noises.generator(*key, "timestep"))))
                found[i, number] = self._one(source, i, source.caption(at, 0), key, t, 0, 1.0, ())
        return found

    def _taught_key(self, source: TrainingSource, i: int, number: int) -> tuple[int | str, ...]:
        return (self.config.seed, source.name, source.cached.keys[i], number)

    def _keys(
        self, source: TrainingSource, step: int, shown: Sequence[int]
    ) -> tuple[list[tuple[int | str, ...]], list[int]]:
        """By place of a step what its picture's draws are keyed by, and its timestep."""
        config, count = self.config, len(shown)
        keys: list[tuple[int | str, ...]] = [(config.seed, source.name, step, place) for place in range(count)]
        if source.teacher is not None:
            numbers = [int(torch.randint(DRAWS, (1,), generator=noises.generator(*key, "taught"))) for key in keys]
            keys = [self._taught_key(source, source.shown[at], n) for at, n in zip(shown, numbers, strict=True)]
        u = torch.stack([times.uniform_number(noises.generator(*key, "timestep")) for key in keys])
        if config.stratify and source.teacher is None:
            order = torch.randperm(count, generator=noises.generator(config.seed, source.name, step, "strata"))
            u = times.stratified(u, order)
        return keys, self.distribution.at(u).tolist()

    def _one(
        self,
        source: TrainingSource,
        i: int,
        caption: str,
        key: tuple[int | str, ...],
        t: int,
        place: int,
        share: float,
        dropout: tuple[int | str, ...],
    ) -> Sample:
        config, cached = self.config, source.cached

        def draw(purpose: str) -> torch.Generator:
            return noises.generator(*key, purpose)

        mirrored = bool(cached.mirrored) and bool(torch.rand((), generator=draw("mirror")) < 0.5)
        placed = (cached.mirrored if mirrored else cached.placed)[i]
        latents = placed.mean + placed.spread * torch.randn(placed.mean.shape, generator=draw("latents"))
        noise = torch.randn(latents.shape, generator=draw("noise"))
        if config.multires_noise:
            noise = noises.multires(noise, config.multires_noise, draw("multires"))
        if config.noise_offset:
            noise = noises.offset(noise, config.noise_offset, draw("offset"))
        seen = noises.perturbed(noise, config.perturbation, draw("perturbation")) if config.perturbation else noise
        return Sample(
            name=f"{source.name}/{i}",
            caption=caption,
            latents=latents,
            noise=noise,
            seen=seen,
            timestep=t,
            weight=share * float(self.distribution.weights[t]),
            place=place,
            key=dropout,
            mask=placed.mask,
            inpaint=_inpaint(placed, draw("inpaint")) if placed.hidden else None,
            taught=None if source.teacher is None else source.teacher.said.get((i, int(key[-1]))),
            sizes=(source.originals[i], placed.corner(source.originals[i])) if source.originals else ((0, 0), (0, 0)),
        )


class Ahead:
    """The samples of each step, those of the next one drawn in a thread meanwhile: the same ones, for they depend on the
    step alone."""

    def __init__(self, draws: Draws, steps: int) -> None:
        self.draws, self.steps = draws, steps
        self._pool = ThreadPoolExecutor(1, "draws")  # one: whatever reads caches does so alone
        self._begun: tuple[int, Future[list[Sample]]] | None = None

    def at(self, step: int) -> list[Sample]:
        begun = self._begun if self._begun is not None and self._begun[0] == step else (step, self._submit(step))
        found = begun[1].result()
        self._begun = (step + 1, self._submit(step + 1)) if step + 1 < self.steps else None
        return found

    def _submit(self, step: int) -> Future[list[Sample]]:
        return self._pool.submit(self.draws.at, step)


def _inpaint(placed: Placed, draw: torch.Generator) -> Tensor:
    """One of the picture's masks and the latents of what it leaves to be seen."""
    mask, mean, spread = placed.hidden[int(torch.randint(len(placed.hidden), (1,), generator=draw))]
    return torch.cat([mask, mean + spread * torch.randn(mean.shape, generator=draw)])


def distribution_of(config: TrainConfig, weights: Tensor) -> Timesteps:
    """Which timesteps the config draws; for importance in proportion to `weights` [steps] of the loss, unbiased.

    ValueError for a range outside the model's timesteps.
    """
    steps = len(weights)
    found = times.logit_normal(steps) if config.timesteps == "logit-normal" else times.uniform(steps)
    if config.timestep_range:
        first, last = map(int, config.timestep_range.split(":"))
        if not first <= last < steps:
            raise ValueError(f"{config.timestep_range} is not within the model's timesteps, 0 to {steps - 1}")
        found = times.limited(found, first, last)
    return times.importance(found, weights) if config.timesteps == "importance" else found
