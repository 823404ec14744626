"""The denoising loss of one step and its gradient; every number drawn from (seed, source, step, place)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from lorakit.config import TrainConfig
from lorakit.diffusion.loss import min_snr_weight, target
from lorakit.diffusion.noise import add_noise, generator
from lorakit.models.load import Components, is_small
from lorakit.models.predict import predict
from lorakit.runtime.workers import cores, each
from lorakit.runtime.world import World
from lorakit.training.batches import Batches
from lorakit.training.cache import Cached
from lorakit.training.loop import Descent
from lorakit.training.texts import Texts


@dataclass
class Source:
    """A set of examples, how many of them a batch shows, and their weight in the loss."""

    name: str
    cached: Cached
    batch_size: int
    weight: float = 1.0
    caption_dropout: float = 0.0

    def order(self) -> list[int]:
        """Each example as often as an epoch shows it."""
        return self.cached.indices()

    def shapes(self) -> list[tuple[int, ...]]:
        return [tuple(mean.shape) for mean in self.cached.means]


@dataclass(frozen=True)
class _Part:
    """Samples that go through the UNet together."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    weights: Tensor
    places: Tensor  # in the step, so that results come back in one order however they were split
    captions: tuple[str, ...]

    def cut(self, size: int) -> list[_Part]:
        tensors = [f.name for f in fields(self) if f.name != "captions"]
        split = zip(*(getattr(self, name).split(size) for name in tensors), strict=True)
        return [
            _Part(**dict(zip(tensors, piece, strict=True)), captions=self.captions[i * size : (i + 1) * size])
            for i, piece in enumerate(split)
        ]


@dataclass(frozen=True)
class _Sample:
    name: str
    caption: str
    latents: Tensor
    noise: Tensor
    timestep: Tensor
    weight: float


class Objective:
    """descend(step, parameters): the loss of a step and its gradient by each parameter.

    The loss is the mean over each source of the weighted squared error, summed over sources by their weights. A step
    shows `accumulate` batches of each source; of each batch every process takes its share, and gradients are summed, so
    that the result is that of one process with a batch as large as all of them.

    A small model on the CPU goes through in pieces, one a core: no barrier between threads, twice as fast on two cores.
    """

    def __init__(
        self, components: Components, sources: Sequence[Source], texts: Texts, config: TrainConfig, world: World
    ) -> None:
        self.components, self.sources, self.texts, self.world = components, sources, texts, world
        self.seed, self.min_snr, self.accumulate = config.seed, config.min_snr or None, config.accumulate
        self.alphas = components.alphas()
        self.shown = [source.order() for source in sources]
        self.batches = [
            Batches([tuple(s.cached.means[i].shape) for i in shown], s.batch_size * self.world.size, self.seed, s.name)
            for s, shown in zip(sources, self.shown, strict=True)
        ]
        # A count of the model's and not the machine's, so that sums are the same on any number of cores.
        self.pieces = 2 if is_small(components) else 1

    def __call__(self, step: int, parameters: Sequence[nn.Parameter]) -> Descent:
        micro = [self._batch(step * self.accumulate + i, step) for i in range(self.accumulate)]
        samples = [sample for batch in micro for sample in batch]
        losses, errors = torch.zeros(()), torch.zeros(len(samples))
        gradients = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
        start = 0
        for batch in micro:
            mine = self.world.share(batch)
            parts = _joined([batch[i] for i in mine], [start + i for i in mine])
            start += len(batch)
            pieces = [piece for part in parts for piece in part.cut(-(-len(part.latents) // self.pieces))]

            def one(part: _Part) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
                return self._descend(step, part, parameters)

            for part, (loss, error, found) in zip(
                pieces, each(one, pieces, cores()) if self.pieces > 1 else map(one, pieces), strict=True
            ):
                losses = losses + loss.cpu()
                errors[part.places] = error.cpu()
                torch._foreach_add_(gradients, [g.float() for g in found])
        self.world.sum_([*gradients, losses, errors])
        timesteps = torch.cat([sample.timestep for sample in samples])
        return Descent(losses, gradients, [sample.name for sample in samples], timesteps, errors)

    def _batch(self, number: int, step: int) -> list[_Sample]:
        """The samples of one batch of all processes, the weights of all summing to the sources'."""
        found = []
        for source, shown, batches in zip(self.sources, self.shown, self.batches, strict=True):
            chosen = [shown[i] for i in batches[number]]
            share = source.weight / (len(chosen) * self.accumulate)
            for place, i in enumerate(chosen):
                key = (self.seed, source.name, step, number - step * self.accumulate, place)
                found.append(self._sample(source, i, share, key))
        return found

    def _sample(self, source: Source, i: int, weight: float, key: tuple[int | str, ...]) -> _Sample:
        """Each place in the step draws from its own generator, so that batch size and order leave the others alone."""
        g = generator(*key)
        timestep = torch.randint(0, len(self.alphas), (1,), generator=g)
        mirror, drop = torch.rand(2, generator=g).tolist()
        mean, spread = source.cached.means[i], source.cached.spreads[i]
        if source.cached.mirrored and mirror < 0.5:
            mean, spread = source.cached.mirrored[i]
        latents = mean + spread * torch.randn(mean.shape, generator=g)
        noise = torch.randn(mean.shape, generator=g)
        caption = "" if drop < source.caption_dropout else source.cached.captions[i]
        return _Sample(f"{source.name}/{i}", caption, latents, noise, timestep, weight)

    def _descend(
        self, step: int, part: _Part, parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        components = self.components
        device, dtype, kind = components.device, components.dtype, components.prediction_type
        a = self.alphas[part.timesteps]
        noisy = add_noise(part.latents, part.noise, a)
        wanted = target(part.latents, part.noise, a, kind).to(device)
        mixed = device.type == "cuda" and dtype != torch.float32
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            told = self.texts(step, part.captions).sized(self._pixels(part.latents))
            said = predict(components, noisy, part.timesteps.to(device), told)
        error = (said.float() - wanted).square().mean((1, 2, 3))
        loss = (error * (part.weights * min_snr_weight(a, self.min_snr, kind)).to(device)).sum()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        zeros = (torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True))
        return loss.detach(), error.detach(), list(zeros)

    def _pixels(self, latents: Tensor) -> tuple[int, int]:
        factor = self.components.vae_factor
        return latents.shape[3] * factor, latents.shape[2] * factor


def _joined(samples: Sequence[_Sample], places: Sequence[int]) -> list[_Part]:
    """Samples of one shape go through the UNet together."""
    groups: dict[tuple[int, ...], list[tuple[_Sample, int]]] = {}
    for sample, place in zip(samples, places, strict=True):
        groups.setdefault(tuple(sample.latents.shape), []).append((sample, place))
    return [
        _Part(
            torch.stack([s.latents for s, _ in group]), torch.stack([s.noise for s, _ in group]),
            torch.cat([s.timestep for s, _ in group]), torch.tensor([s.weight for s, _ in group]),
            torch.tensor([place for _, place in group]), tuple(s.caption for s, _ in group),
        )
        for group in groups.values()
    ]  # fmt: skip
