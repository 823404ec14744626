"""Weights of a composition that fit some pictures best: only the gates are trained, a few hundred numbers at most."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lorakit.composition import Composition, Member, curve
from lorakit.data import dataset, prompt_tags
from lorakit.data.images import BadPicture, centre, cut
from lorakit.data.images import load as open_picture
from lorakit.diffusion.noise import generator
from lorakit.drawing.ensemble import Ensemble
from lorakit.errors import InputError, NumericError, UsageError
from lorakit.models.conditioning import Conditioning
from lorakit.models.encode import latent_moments, to_tensor
from lorakit.models.load import Components
from lorakit.models.predict import predict
from lorakit.models.prompts import PromptReading, encode
from lorakit.patterns import Pattern
from lorakit.talk import Note, Talk

PER = ("adapter", "block", "layer", "band")
BANDS = 4  # of the denoising
_HELD = 4  # every so many-th picture is held out
_PULL = 1e-3  # towards 1: share of the loss that a mean square distance of 1 costs
_UP = 1.05  # so many times the lowest loss: a step leads up
_HARM = 2  # so many times the loss without it: an adapter does harm alone
_PATIENCE = 5  # looks at the held-out pictures without a better one


@dataclass(frozen=True, kw_only=True)
class Learning:
    """per           what has a weight of its own: each adapter, block, layer, or adapter in each quarter of the denoising
    draws            noise levels of each picture, the same in every step
    """

    per: str = "adapter"
    steps: int = 60
    rate: float = 0.05
    draws: int = 8
    seed: int = 0
    prompt: str | None = None


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """The composition with the weights found; the loss on held-out pictures before and after, and as it went."""

    composition: Composition
    before: float
    after: float
    numbers: int
    losses: list[float]
    held_out: list[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class _Set:
    """Noisy latents and what should be said of them; of each the caption and the fraction of the denoising."""

    noisy: Tensor
    wanted: Tensor
    times: Tensor
    captions: Sequence[str]
    fractions: Tensor


def learn(components: Components, composition: Composition, data: Path, how: Learning, talk: Talk) -> Learnt:
    """Minimise the denoising loss on `data` over the adapters' weights, which start from what they are and are drawn back
    there a little. The best on held-out pictures is what is taken, and learning ends where they gain no more.

    InputError for pictures that cannot be read; UsageError for a composition whose weights change already.
    """
    if not composition.constant:
        raise UsageError(f"--learn starts from constant weights; {'; '.join(composition.why_not_constant())}")
    if any(member.weight == 0 for member in composition.members):
        raise UsageError("--learn scales each adapter's weight; an adapter at 0 stays there: give it another weight")
    ensemble = Ensemble(components, [composition], talk.note)
    gates = _WeightFactors(ensemble, composition, how.per)
    gates.written(gates.values.detach())  # what cannot be written is told before it is learnt
    train, held = _sets(components, data, how, talk.note)
    before = best = _loss(components, ensemble, gates, held).item()
    _check_finite(before)
    kept, losses, seen, worse = torch.ones_like(gates.values), [], [(0, before)], 0
    if _leave_out(components, ensemble, gates, train):
        start = _loss(components, ensemble, gates, held).item()
        if start < best:
            best, kept = start, gates.values.detach().clone()
    strides = _Strides(gates.values, how.rate)
    for step in range(how.steps):
        gates.values.grad = None
        loss = _descend(components, ensemble, gates, train, before)
        gradient: Tensor | None = gates.values.grad
        if not np.isfinite(loss) or gradient is None or not gradient.isfinite().all():
            raise NumericError(f"--learn, step {step + 1}: the loss is {loss}; try a lower --learn-rate")
        strides.go(loss)
        losses.append(loss)
        talk.tick(step + 1, how.steps)
        if (step + 1) % 5 == 0 or step + 1 == how.steps:
            now = _loss(components, ensemble, gates, held).item()
            seen.append((step + 1, now))
            worse = 0 if now < best else worse + 1
            if now < best:
                best, kept = now, gates.values.detach().clone()
            if worse >= _PATIENCE:
                break
    found = gates.written(kept)
    numbers = gates.values.numel()
    ensemble.remove()
    return Learnt(composition=found, before=before, after=best, numbers=numbers, losses=losses, held_out=seen)


def _check_finite(loss: float) -> None:
    if not np.isfinite(loss):
        raise NumericError(f"--learn: the loss is {loss} before the first step; is an adapter or a picture damaged?")


class _Strides:
    """Adam's steps down a loss that has no chance in it: one that leads up is taken back, and the next are half as long."""

    def __init__(self, values: Tensor, rate: float) -> None:
        self.values, self.low, self.at = values, float("inf"), values.detach().clone()
        self._begin(rate)

    def _begin(self, rate: float) -> None:
        self.rate, self.adam = rate, torch.optim.Adam([self.values], lr=rate, betas=(0.9, 0.99))

    def go(self, loss: float) -> None:
        """From where the loss is `loss`, with the gradient there."""
        if loss > self.low * _UP:
            self.values.data.copy_(self.at)
            self._begin(self.rate / 2)
            return
        if loss < self.low:
            self.low, self.at = loss, self.values.detach().clone()
        self.adam.step()


class _WeightFactors:
    """The factors of the members' weights, [numbers], and which adapts what."""

    def __init__(self, ensemble: Ensemble, composition: Composition, per: str) -> None:
        self.composition, self.per = composition, per
        self.by_number = {ensemble.number(member): i for i, member in enumerate(composition.members)}
        self.groups: dict[tuple[int, str], int] = {}
        for name, module in ensemble.stack.modules.items():
            for term in module.terms:
                member = self.by_number[term.adapter]
                for group in self._groups_of(name):
                    self.groups.setdefault((member, group), len(self.groups))
        self.values = torch.ones(len(self.groups), requires_grad=True)

    def _groups_of(self, name: str) -> list[str]:
        if self.per == "band":
            return [str(band) for band in range(BANDS)]
        return [{"adapter": "", "layer": name, "block": _block(name)}[self.per]]

    def of(self, member: int) -> list[int]:
        """Where among the numbers a member's are."""
        return [at for (one, _), at in self.groups.items() if one == member]

    def at(self, band: int) -> Callable[[int, str], Tensor]:
        """The weight of an adapter in a module, for noise levels of this band."""

        def weight(number: int, name: str) -> Tensor:
            member = self.by_number[number]
            group = str(band) if self.per == "band" else self._groups_of(name)[0]
            return self.values[self.groups[member, group]] * self.composition.members[member].weight

        return weight

    def written(self, values: Tensor) -> Composition:
        """The composition with these factors, to four digits."""
        members = []
        for i, member in enumerate(self.composition.members):
            mine = {group: round(float(values[at]), 4) for (m, group), at in self.groups.items() if m == i}
            members.append(self._with(member, mine))
        return replace(self.composition, members=tuple(members))

    def _with(self, member: Member, mine: dict[str, float]) -> Member:
        if not mine:
            return member
        if self.per == "adapter":
            return replace(member, weight=round(member.weight * mine[""], 6))
        if self.per == "layer":
            layers = tuple((Pattern(f"^{name.replace('.', chr(92) + '.')}$"), factor) for name, factor in mine.items())
            return replace(member, layers=(*layers, *member.layers))
        if self.per == "block":
            if member.blocks:
                raise UsageError(f"{member.name} has block weights already; --learn-per block writes its own")
            return replace(member, blocks=mine)
        text = ",".join(f"{mine[str(band)]:g}@{band / BANDS:g}" for band in range(BANDS))
        return replace(member, curve=curve.read(f"{text}:step"))


def _block(name: str) -> str:
    """unet.down_blocks.1 and so on; what is in no block goes by its part."""
    pieces = name.split(".")
    if pieces[1] in ("down_blocks", "up_blocks"):
        return ".".join(pieces[:3])
    return "unet.mid_block" if pieces[1] == "mid_block" else pieces[0]


def _sets(components: Components, data: Path, how: Learning, note: Note) -> tuple[_Set, _Set]:
    """Pictures to learn from and pictures held out, by their content; of one picture alone, other noise is held out."""
    examples = dataset.read(data, how.prompt, note)
    latents, captions, keys, bad = [], [], [], []
    side = components.size
    for example in examples:
        try:
            image = cut(whole := open_picture(example.file), centre(whole.size, (side, side)))
        except BadPicture as reason:
            bad.append(f"{example.file.name} ({reason})")
            continue
        pixels = np.asarray(image)
        keys.append(hashlib.sha256(pixels.tobytes()).hexdigest())
        latents.append(latent_moments(components, to_tensor(pixels)[None])[0][0])
        captions.append(example.caption)
    if bad:
        raise InputError(f"{len(bad)} pictures cannot be read: {', '.join(bad[:3])}")
    if tagged := prompt_tags.in_captions(captions):
        note(tagged)
    order = sorted(range(len(keys)), key=lambda i: keys[i])
    held = order[::_HELD] if len(order) > 1 else order
    rest = [i for i in order if i not in held] or order
    note(f"learning from {len(rest)} pictures, {len(held)} held out, {how.draws} noise levels each")
    return tuple(  # type: ignore[return-value]
        _noised(components, [latents[i] for i in chosen], [captions[i] for i in chosen], how, name)
        for chosen, name in ((rest, "learn"), (held, "held out"))
    )


def _noised(
    components: Components, latents: Sequence[Tensor], captions: Sequence[str], how: Learning, name: str
) -> _Set:
    """Each picture at `draws` noise levels, one in each stretch of the schedule."""
    process = components.process
    count = process.steps
    x, eps, times = [], [], []
    for i, latent in enumerate(latents):
        g = generator(how.seed, name, i)
        offsets = torch.rand(how.draws, generator=g)
        for k in range(how.draws):
            x.append(latent)
            eps.append(torch.randn(latent.shape, generator=g))
            times.append(int((k + float(offsets[k])) / how.draws * count))
    t, clean, noise = torch.tensor(times), torch.stack(x), torch.stack(eps)
    process = process.at((clean.shape[2], clean.shape[3]))
    return _Set(
        noisy=process.noisy(clean, noise, t),
        wanted=process.target(clean, noise, t),
        times=process.told(t),
        captions=[caption for caption in captions for _ in range(how.draws)],
        fractions=1 - torch.tensor(times) / count,
    )


def _pieces(held: _Set, per: str, count: int = 8) -> list[tuple[int, Tensor]]:
    """(band, indices) of pieces that go through together: the weights are one set in each."""
    bands = (held.fractions * BANDS).long().clamp(0, BANDS - 1) if per == "band" else torch.zeros(len(held.times))
    return [
        (band, piece) for band in range(BANDS) for piece in (bands == band).nonzero()[:, 0].split(count) if len(piece)
    ]


class _Errors:
    """Mean squared errors of a set's pieces. Captions are encoded once for each band; where adapters reach the text
    encoders, what the pieces ask of the states is gathered, and goes back through the encoders in the end."""

    def __init__(self, components: Components, ensemble: Ensemble, gates: _WeightFactors, held: _Set) -> None:
        self.components, self.ensemble, self.gates, self.held = components, ensemble, gates, held
        self._made: dict[int, tuple[list[str], Conditioning, Conditioning]] = {}

    def sum(self, band: int, piece: Tensor) -> Tensor:
        """The sum over a piece."""
        held, components = self.held, self.components
        distinct, _, told = self._told(band)
        told = told[[distinct.index(held.captions[i]) for i in piece.tolist()]]
        with self.ensemble.stack.gates.at((), learned=self.gates.at(band)):
            said = predict(
                components,
                held.noisy[piece],
                held.times[piece].to(components.device),
                told.sized((components.size, components.size)),
                self._inpaint(len(piece)),
            )
        return (said.float() - held.wanted[piece].to(components.device)).square().mean((1, 2, 3)).sum()

    def through_text(self) -> None:
        """Gradients of the states into the gates of the text encoders."""
        for _, whole, leaf in self._made.values():
            for x, y in ((whole.states, leaf.states), (whole.pooled, leaf.pooled)):
                if x is not None and y is not None and x.requires_grad and y.grad is not None:
                    x.backward(y.grad, retain_graph=True)

    def _told(self, band: int) -> tuple[list[str], Conditioning, Conditioning]:
        if band not in self._made:
            distinct = sorted(set(self.held.captions))
            with self.ensemble.stack.gates.at((), learned=self.gates.at(band)):
                reading = self.ensemble.reading(PromptReading(plain=True, cut=True))
                rows = [encode(self.components, text, reading) for text in distinct]
            whole = Conditioning.cat(rows)
            learnt = whole.states.requires_grad
            pooled = None if whole.pooled is None else whole.pooled.detach().requires_grad_(learnt)
            leaf = Conditioning(whole.states.detach().requires_grad_(learnt), pooled)
            self._made[band] = distinct, whole, leaf
        return self._made[band]

    def _inpaint(self, count: int) -> Tensor | None:
        if not self.components.inpaints:
            return None
        mean, _ = latent_moments(self.components, torch.zeros(1, 3, self.components.size, self.components.size))
        return torch.cat([torch.ones(1, 1, *mean.shape[2:]), mean], 1).expand(count, -1, -1, -1)


def _descend(components: Components, ensemble: Ensemble, gates: _WeightFactors, train: _Set, scale: float) -> float:
    """Gradients of the mean loss and the pull towards 1; gives the loss without the pull."""
    errors, total = _Errors(components, ensemble, gates, train), 0.0
    for band, piece in _pieces(train, gates.per):
        loss = errors.sum(band, piece) / len(train.times)
        loss.backward()
        total += loss.item()
    errors.through_text()
    (_PULL * scale * (gates.values - 1).square().mean()).backward()
    return total


@torch.no_grad()
def _leave_out(components: Components, ensemble: Ensemble, gates: _WeightFactors, train: _Set) -> bool:
    """Start without the adapters that do harm alone: far from where they help, the loss is too flat to lead there.
    Whether there are such."""
    best = _loss(components, ensemble, gates, train).item()
    left = dict.fromkeys(member for member, _ in gates.groups)
    while left:
        losses = {}
        for member in left:
            kept = gates.values.data.clone()
            gates.values.data[gates.of(member)] = 0.0
            losses[member] = _loss(components, ensemble, gates, train).item()
            gates.values.data.copy_(kept)
        worst = min(losses, key=lambda member: losses[member])
        if losses[worst] * _HARM > best:
            break
        best = losses[worst]
        del left[worst]
        gates.values.data[gates.of(worst)] = 0.0
    return bool((gates.values == 0).any())


@torch.no_grad()
def _loss(components: Components, ensemble: Ensemble, gates: _WeightFactors, held: _Set) -> Tensor:
    errors = _Errors(components, ensemble, gates, held)
    return torch.stack([errors.sum(band, piece) for band, piece in _pieces(held, gates.per)]).sum() / len(held.times)
