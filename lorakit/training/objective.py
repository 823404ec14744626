"""The denoising loss of one step, from cached latents and states; every number drawn from (seed, step, place)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorakit.diffusion.loss import min_snr_weight, target
from lorakit.diffusion.noise import add_noise, generator
from lorakit.models.load import Components, is_small
from lorakit.runtime.workers import cores, each
from lorakit.training.batches import Batches
from lorakit.training.cache import Cached


@dataclass
class Source:
    """A set of examples, how many of them a step shows, and their weight in the loss."""

    name: str
    cached: Cached
    batch_size: int
    weight: float = 1.0
    caption_dropout: float = 0.0


@dataclass(frozen=True)
class _Micro:
    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    states: Tensor
    weights: Tensor


def _draw(source: Source, batches: Batches, indices: list[int], states: Mapping[str, Tensor], seed: int, step: int, timesteps: int) -> list[_Micro]:  # fmt: skip
    """Each place in the batch draws from its own generator, so that batch size and order leave the others alone."""
    chosen, drawn = [indices[i] for i in batches[step]], []
    for place, i in enumerate(chosen):
        g = generator(seed, source.name, step, place)
        time = torch.randint(0, timesteps, (1,), generator=g)
        mirror, drop = torch.rand(2, generator=g).tolist()
        mean, spread = source.cached.means[i], source.cached.spreads[i]
        if source.cached.mirrored and mirror < 0.5:
            mean, spread = source.cached.mirrored[i]
        latents = mean + spread * torch.randn(mean.shape, generator=g)
        noise = torch.randn(mean.shape, generator=g)
        text = states["" if drop < source.caption_dropout else source.cached.captions[i]]
        weight = torch.full((1,), source.weight / len(chosen))
        drawn.append(_Micro(latents[None], noise[None], time, text[None], weight))
    return drawn


def _joined(parts: list[_Micro]) -> list[_Micro]:
    """Parts of one shape go through the UNet together."""
    groups: dict[tuple[int, ...], list[_Micro]] = {}
    for part in parts:
        groups.setdefault(tuple(part.latents.shape[1:]), []).append(part)
    fields = ("latents", "noise", "timesteps", "states", "weights")
    return [_Micro(*(torch.cat([getattr(p, f) for p in group]) for f in fields)) for group in groups.values()]


def _chunks(parts: list[_Micro], count: int) -> list[_Micro]:
    """Each part cut into at most `count` pieces; a count of the model's, not the machine's, so that sums are the same
    on any number of cores."""
    fields = ("latents", "noise", "timesteps", "states", "weights")
    pieces = []
    for part in parts:
        size = -(-len(part.latents) // count)
        split = [getattr(part, name).split(size) for name in fields]
        pieces += [_Micro(*values) for values in zip(*split, strict=True)]
    return pieces


def objective(
    components: Components,
    sources: list[Source],
    states: Mapping[str, Tensor],
    parameters: Sequence[nn.Parameter],
    seed: int,
    min_snr: float | None,
) -> Callable[[int], tuple[Tensor, list[Tensor]]]:
    """descend(step): the loss of a step and its gradient by each parameter.

    The loss is the mean over each source of the min-SNR-weighted squared error, summed over sources by their weights.
    A small model on the CPU goes through in pieces, one a core: no barrier between threads, twice as fast on two cores.
    """
    alphas, kind = components.alphas(), components.prediction_type
    device, dtype = components.device, components.dtype
    indices = [source.cached.indices() for source in sources]
    batches = [
        Batches([tuple(s.cached.means[i].shape) for i in shown], s.batch_size, seed, s.name)
        for s, shown in zip(sources, indices, strict=True)
    ]
    pieces = 2 if is_small(components) else 1

    def one(part: _Micro) -> tuple[Tensor, tuple[Tensor, ...]]:
        a = alphas[part.timesteps]
        noisy = add_noise(part.latents, part.noise, a).to(device, dtype)
        wanted = target(part.latents, part.noise, a, kind).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and dtype != torch.float32):
            said = components.unet(noisy, part.timesteps.to(device), part.states.to(device, dtype)).sample
        error = (said.float() - wanted).square().mean((1, 2, 3))
        loss = (error * (part.weights * min_snr_weight(a, min_snr, kind)).to(device)).sum()
        return loss.detach(), torch.autograd.grad(loss, parameters)

    def descend(step: int) -> tuple[Tensor, list[Tensor]]:
        drawn = [
            sample
            for s, b, shown in zip(sources, batches, indices, strict=True)
            for sample in _draw(s, b, shown, states, seed, step, len(alphas))
        ]
        parts = _chunks(_joined(drawn), pieces)
        done = list(each(one, parts, cores()) if pieces > 1 else map(one, parts))
        total, gradients = done[0][0], list(done[0][1])
        for value, more in done[1:]:
            total = total + value
            torch._foreach_add_(gradients, list(more))
        return total, gradients

    return descend
