"""The denoising loss of one step and its gradient."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorakit.config import TrainConfig
from lorakit.diffusion import loss as losses
from lorakit.diffusion.noise import generator
from lorakit.models.conditioning import Conditioning
from lorakit.models.load import Components, is_small
from lorakit.models.packed import pack
from lorakit.models.predict import predict
from lorakit.runtime.workers import cores, each
from lorakit.runtime.world import World
from lorakit.training.gradients import Scaler
from lorakit.training.loop import Descent
from lorakit.training.precision import Precision
from lorakit.training.samples import Ahead, Draws, Sample, TrainingSource, distribution_of
from lorakit.training.shards import Shards
from lorakit.training.texts import Texts
from lorakit.training.variants import Attached

_TOGETHER = 8  # held-out samples a forward; fixed, so that sums do not depend on the machine


@dataclass(frozen=True)
class _SampleStack:
    """Samples of one shape, stacked: they go through the UNet together."""

    samples: Sequence[Sample]

    def stack(self, name: str) -> Tensor:
        return torch.stack([getattr(sample, name) for sample in self.samples])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        height, width = self.samples[0].latents.shape[-2:]
        return height, width

    @property
    def timesteps(self) -> Tensor:
        return torch.tensor([sample.timestep for sample in self.samples])

    @property
    def mask(self) -> Tensor | None:
        """[b, 1, h, w]; None where no sample has one. Ones stand for none: they give the same bits."""
        if all(sample.mask is None for sample in self.samples):
            return None
        ones = torch.ones(1, *self.samples[0].latents.shape[1:])
        return torch.stack([ones if sample.mask is None else sample.mask for sample in self.samples])


# A loss, [], of each part the samples' errors, and gradients.
_Done = tuple[Tensor, Sequence[tuple[_SampleStack, Tensor]], Sequence[Tensor]]


class Objective:
    """objective(step, parameters): the loss of a step and its gradient by each parameter.

    The loss is the mean over each source of the weighted error, summed over sources by their weights. Every process
    takes its share of a step, `micro` samples at a time, and gradients are summed: the result is that of one process
    that takes them all at once. Where the model is divided the gradients are of this process's pieces.

    A small model on the CPU goes through in pieces, one a core: no barrier between threads, twice as fast on two cores.
    """

    def __init__(
        self,
        components: Components,
        sources: Sequence[TrainingSource],
        texts: Texts,
        config: TrainConfig,
        world: World,
        precision: Precision,
        *,
        attached: Attached | None = None,
        scaler: Scaler | None = None,
        shards: Shards | None = None,
    ) -> None:
        self.components, self.texts, self.config, self.world = components, texts, config, world
        self.precision, self.attached, self.scaler, self.shards = precision, attached, scaler, shards
        self.process = components.process
        rule = "debiased" if config.debiased else "v-like" if config.v_like else "min-snr"
        self.weights = self.process.weights(rule, config.min_snr)
        self.samples = Draws(sources, config, distribution_of(config, self.weights))
        self.draws = Ahead(self.samples, config.total)
        self.micro = config.batch_size or 1
        # A count of the model's and not the machine's, so that sums are the same on any number of cores.
        self.pieces = 2 if is_small(components) else 1
        if shards is None and not config.compile:
            pack(components.unet)

    def __call__(self, step: int, parameters: Sequence[nn.Parameter]) -> Descent:
        started = time.monotonic()
        samples = self.draws.at(step)
        waited = time.monotonic() - started
        descend = self._whole if self.shards is None else self._divided
        total, own, gradients = descend(step, samples, parameters)
        errors = torch.zeros(len(samples))
        for part, error in own:
            errors[[sample.place for sample in part.samples]] = error.cpu()
        if self.world.size > 1:
            errors, total = errors.to(self.components.device), total.reshape(1)
            self.world.sum_([*(gradients if self.shards is None else ()), total, errors])
            errors, total = errors.cpu(), total[0]
        timesteps = torch.tensor([sample.timestep for sample in samples])
        return Descent(
            loss=total,
            gradients=gradients,
            samples=[sample.name for sample in samples],
            timesteps=timesteps,
            errors=errors,
            waited=waited,
        )

    def _share(self, samples: Sequence[Sample], rank: int | None = None) -> list[_SampleStack]:
        return _parts([samples[i] for i in self.world.share(samples, rank)], self.micro, self.pieces)

    def _whole(self, step: int, samples: Sequence[Sample], parameters: Sequence[nn.Parameter]) -> _Done:
        """Of this process's samples, with a model that it has all of."""
        parts = self._share(samples)
        total, own = torch.zeros((), device=self.components.device), []
        gradients = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
        work: Callable[[_SampleStack], tuple[Tensor, Tensor, Sequence[Tensor]]] = lambda part: self._descend(  # noqa: E731
            step, part, parameters
        )
        done = each(work, parts, cores()) if self.pieces > 1 else map(work, parts)
        for part, (loss, error, found) in zip(parts, done, strict=True):
            total = total + loss
            own.append((part, error))
            torch._foreach_add_(gradients, list(found))
        return total, own, gradients

    def _descend(
        self, step: int, part: _SampleStack, parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        with self._dropping(part):
            loss, error, scaled = self._scaled(step, part)
            found = torch.autograd.grad(scaled, parameters, allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        return loss.detach(), error, [g.float() for g in gradients]

    def _divided(self, step: int, samples: Sequence[Sample], parameters: Sequence[nn.Parameter]) -> _Done:
        """The same with a divided model, which all processes must ask equally often: one that has fewer parts than
        another goes on with a sample that weighs nothing."""
        assert self.shards is not None
        if 0 < self.texts.until <= step:
            self.texts.still([sample.caption for sample in samples])  # encoded together, or by each as it comes to it
        parts = self._share(samples)
        most = max(len(self._share(samples, rank)) for rank in range(self.world.size))
        idle = [_SampleStack([replace(samples[0], weight=0.0)])] * (most - len(parts))
        total, own = torch.zeros((), device=self.components.device), []
        with self.shards.descending():
            for part in [*parts, *idle]:
                loss, error, scaled = self._scaled(step, part)
                scaled.backward()  # type: ignore[no-untyped-call]
                total = total + loss.detach()
                own.append((part, error))
        return total, own[: len(parts)], self.shards.gradients(parameters)

    def _scaled(self, step: int, part: _SampleStack) -> tuple[Tensor, Tensor, Tensor]:
        """What `_loss` gives, and the loss as its gradient is to be taken."""
        loss, error = self._loss(step, part)
        return loss, error, loss if self.scaler is None else self.scaler.scaled(loss)

    def _dropping(self, part: _SampleStack) -> AbstractContextManager[None]:
        if self.attached is None or not self.config.dropout:
            return nullcontext()
        return self.attached.dropping([generator(*sample.key) for sample in part.samples])

    @torch.no_grad()
    def teach(self, name: str, folder: Path | None) -> int:
        """Have the model, which is to be as it was before training, say what class pictures are learnt from, where they
        have a teacher; how many predictions were not in the cache in `folder`. name is of the model's weights."""

        def say(sample: Sample) -> Tensor:
            with torch.no_grad():  # in a thread of its own
                return self._said(partial(self.texts, 0), _SampleStack([sample]))[0].cpu()

        def inputs(sample: Sample) -> list[Any]:
            tensors = [sample.latents, sample.seen, *(() if sample.inpaint is None else (sample.inpaint,))]
            kind = [str(self.precision.compute), self.components.device.type]
            return [
                name,
                kind,
                sample.timestep,
                sample.caption,
                sample.sizes,
                self._noisy(_SampleStack([sample])),
                *tensors,
            ]

        draws, count = self.samples, cores() if self.pieces > 1 else 1
        taught = [(source.teacher, draws.taught(source)) for source in draws.sources if source.teacher is not None]
        return sum(teacher.fill(asked, say, inputs, folder, count) for teacher, asked in taught)

    @torch.no_grad()
    def errors(self, source: TrainingSource, pairs: Sequence[tuple[int, int]], strata: int) -> Tensor:
        """The unweighted error of each (picture of a source that is not trained on, stratum of the timesteps), [pairs], on
        the CPU."""
        found, shapes = torch.zeros(len(pairs)), source.shapes()
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for at, (i, _) in enumerate(pairs):
            by_shape.setdefault(shapes[i], []).append(at)
        for same in by_shape.values():
            for start in range(0, len(same), _TOGETHER):
                places = same[start : start + _TOGETHER]
                part = _SampleStack([self.samples.held_out(source, *pairs[at], strata) for at in places])
                found[places] = self._error(self.texts.now, part).cpu()
        return found

    def _said(self, texts: Callable[[Sequence[str]], Conditioning], part: _SampleStack) -> Tensor:
        """What the model says of a part, [b, c, h, w], float32."""
        noisy = self._noisy(part)
        inpaint = part.stack("inpaint") if self.components.inpaints else None
        with self.precision.autocast():
            told = self._told(texts([sample.caption for sample in part.samples]), part, noisy)
            t = self.process.at(part.size).told(part.timesteps).to(self.components.device)
            return predict(self.components, noisy, t, told, inpaint).float()

    def _noisy(self, part: _SampleStack) -> Tensor:
        return self.process.at(part.size).noisy(part.stack("latents"), part.stack("seen"), part.timesteps)

    def _wanted(self, part: _SampleStack) -> Tensor:
        """What it should say: the process's target, or its teacher's word."""
        found = self.process.at(part.size).target(part.stack("latents"), part.stack("noise"), part.timesteps)
        if any(sample.taught is not None for sample in part.samples):
            pairs = zip(found, part.samples, strict=True)
            found = torch.stack([own if sample.taught is None else sample.taught for own, sample in pairs])
        return found.to(self.components.device)

    def _loss(self, step: int, part: _SampleStack) -> tuple[Tensor, Tensor]:
        """(weighted loss of the part, [], and each sample's unweighted error [b])."""
        error = self._error(partial(self.texts, step), part)
        weights = torch.tensor([sample.weight for sample in part.samples]) * self.weights[part.timesteps]
        return (error * weights.to(error.device)).sum(), error.detach()

    def _error(self, texts: Callable[[Sequence[str]], Conditioning], part: _SampleStack) -> Tensor:
        """How wrong the model is at each sample of a part, [b], before any weight."""
        config, device, t, mask = self.config, self.components.device, part.timesteps, part.mask
        delta = losses.huber_delta(t, self.process.steps, config.huber, "exponential").to(device)
        each_one = losses.LOSSES[config.loss](self._said(texts, part) - self._wanted(part), delta)
        return losses.mean_by_sample(each_one, None if mask is None else mask.to(device))

    def _told(self, told: Conditioning, part: _SampleStack, latents: Tensor) -> Conditioning:
        """What the denoiser is told of a part: the text, and for SDXL the sizes."""
        if not self.components.sized:
            return told
        factor = self.components.vae_factor
        target = (latents.shape[3] * factor, latents.shape[2] * factor)
        rows = []
        for sample in part.samples:
            (width, height), (left, top) = sample.sizes
            original = (width, height) if width else target
            rows.append([original[1], original[0], top, left, target[1], target[0]])
        return Conditioning(
            told.states, told.pooled, torch.tensor(rows, dtype=torch.float32, device=told.states.device)
        )


def _parts(samples: Sequence[Sample], micro: int, pieces: int) -> list[_SampleStack]:
    """The samples in parts of one shape, at most `micro` each; of a small model each in so many pieces."""
    by_shape: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        by_shape.setdefault(tuple(sample.latents.shape), []).append(sample)
    found = []
    for same in by_shape.values():
        for start in range(0, len(same), micro):
            part = same[start : start + micro]
            size = -(-len(part) // pieces)
            found += [_SampleStack(part[i : i + size]) for i in range(0, len(part), size)]
    return found
