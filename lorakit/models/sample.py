"""Denoising: conditionings in, pictures out. All drawing in lorakit goes through here."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorakit.composition.curve import Curve
from lorakit.diffusion.guidance import guided
from lorakit.diffusion.noise import generator
from lorakit.errors import NumericError
from lorakit.models.conditioning import Conditioning
from lorakit.models.encode import latent_moments, to_pictures
from lorakit.models.gates import Gates
from lorakit.models.load import Components, is_small
from lorakit.models.predict import predict
from lorakit.models.solvers import Solver
from lorakit.runtime.workers import cores, each


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How pictures are drawn, the same for all of a call.

    guidance_curve    guidance over the denoising, in place of the number
    guidance_until    share of the denoising after which there is none
    strength          of image to image: the share of the denoising that is done
    spacing           of the steps (lorakit/schedulers.py); None as the model says
    purpose           names the noise: another purpose draws other noise from the same seed
    """

    size: tuple[int, int]
    steps: int = 30
    guidance: float = 7.5
    scheduler: str = "dpm++"
    batch_size: int = 8
    rescale: float = 0.0
    guidance_curve: Curve | None = None
    guidance_until: float = 1.0
    strength: float = 1.0
    purpose: str = "sample"
    spacing: str | None = None

    def guidance_at(self, fraction: float) -> float:
        """Not above 1: the negative prompt is not asked."""
        if fraction > self.guidance_until:
            return 1.0
        return self.guidance if self.guidance_curve is None else self.guidance_curve.at(fraction)


@dataclass(frozen=True)
class Spoken:
    """What a prompt says while a picture is drawn.

    wordings    the conditionings of all that it says, of one length
    at          which of them step i says; the last number goes for the steps behind it
    """

    wordings: tuple[Conditioning, ...]
    at: tuple[int, ...] = (0,)

    def now(self, step: int) -> int:
        return self.at[min(step, len(self.at) - 1)]

    @property
    def length(self) -> int:
        return self.wordings[0].states.shape[1]


@dataclass(frozen=True, kw_only=True)
class PictureRequest:
    """What one picture depends on, beside how it is drawn.

    told              by the variant that a forward asks for (None where there is one) its prompts: several where AND joins them
    negative          by the variant, what not to draw
    shares            the weight of each of the prompts that AND joins
    start             latents [c, h, w] to start from; mask [1, h, w], 1 where it is drawn anew, 0 where it stays
    masked            latents of the picture without what the mask covers, for a UNet that inpaints
    """

    seed: int
    told: Mapping[Any, Sequence[Spoken]]
    negative: Mapping[Any, Spoken]
    start: Tensor | None = None
    mask: Tensor | None = None
    masked: Tensor | None = None
    shares: tuple[float, ...] = (1.0,)

    @staticmethod
    def of(seed: int, told: Conditioning, negative: Conditioning, **more: Any) -> PictureRequest:
        """A picture of one prompt that says the same in every step, without variants."""
        return PictureRequest(seed=seed, told={None: (Spoken((told,)),)}, negative={None: Spoken((negative,))}, **more)


@dataclass(frozen=True)
class Forward:
    """One question to the UNet in a step: at which weights of the adapters, by which variant of the prompt; and how much
    its answer counts, a number or a map [1, 1, h, w]. The answers of a step are averaged by it."""

    weights: tuple[float, ...] = ()
    uses: float = 1.0
    variant: Hashable = None
    share: float | Tensor = 1.0


@dataclass(frozen=True)
class Acting:
    """The adapters of a drawing: the forwards of step i, which stands at a fraction of the denoising; and whether those of a
    step can go through the UNet side by side in one batch."""

    gates: Gates
    steps: Sequence[Sequence[Forward]]
    rowwise: bool = False


Watch = Callable[[int, int, Tensor], None]
_ALONE = (Forward(),)


def steps_done(components: Components, how: Drawing) -> list[tuple[int, float]]:
    """Each step of a drawing, counted from 0, and its fraction of the denoising; with a strength below 1 the last ones."""
    solver = solver_of(components, how)
    total = len(solver.times)
    return [(i, i / max(1, total - 1)) for i in range(solver.first(how.strength), total)]


def solver_of(components: Components, how: Drawing) -> Solver:
    """The solver of a drawing; UsageError where the model has none like it."""
    size = (how.size[1] // components.vae_factor, how.size[0] // components.vae_factor)
    return Solver(components, how.scheduler, how.steps, how.spacing, size)


@torch.inference_mode()
def denoise(
    components: Components,
    pictures: Sequence[PictureRequest],
    how: Drawing,
    acting: Acting | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Latents [b, c, h, w] in float32 of one batch, on the device.

    Picture i depends on pictures[i] and `how` alone. Where there is guidance both halves go through the UNet in one
    forward. watch(step, steps, latents) gets what the model takes the finished picture for after each step.
    NumericError names the step where latents became NaN or infinite.
    """
    solver = solver_of(components, how)
    total, factor = len(solver.times), components.vae_factor
    first = solver.first(how.strength)
    shape = (components.latent_channels, how.size[1] // factor, how.size[0] // factor)
    draws = [generator(picture.seed, how.purpose) for picture in pictures]
    noise = torch.stack([torch.randn(shape, generator=g) for g in draws]).to(components.device)
    start, mask = _stacked(pictures, "start", components), _stacked(pictures, "mask", components)
    anew = mask is not None and how.strength == 1  # what is masked is then drawn from nothing
    x = solver.begin(noise, None if anew else start, first)
    inpaint = _inpaint(components, pictures, mask, how) if components.inpaints else None
    gates, together = acting.gates if acting else None, _together(components, pictures, how, acting)
    answers = _Answers(
        components=components, pictures=pictures, how=how, gates=gates, inpaint=inpaint, together=together
    )
    fine: list[Tensor] = []
    for i in range(first, total):
        scaled, t = solver.scaled(x, i), solver.times[i]
        answers.step = i - first
        said = answers.mean(scaled, t, i / max(1, total - 1), acting.steps[i - first] if acting else _ALONE)
        if watch is not None:
            watch(i, total, components.process.finished(scaled, said, t))
        x = solver.step(said, x, i, draws)
        if mask is not None and start is not None and not components.inpaints:
            x = mask * x + (1 - mask) * solver.noisy(start, noise, i + 1)
        fine.append(x.isfinite().all())
    if fine and not torch.stack(fine).all():
        step = first + [bool(x) for x in fine].index(False) + 1
        half = components.dtype != torch.float32
        advice = "try --dtype float32" if half else "does an adapter have huge weights?"
        raise NumericError(f"NaN or infinity in the latents at step {step} of {total} ({_named(components)}); {advice}")
    return x


def _together(components: Components, pictures: Sequence[PictureRequest], how: Drawing, acting: Acting | None) -> int:
    """How many forwards of a step go through in one batch: as many as make no batch larger than was asked for.

    On the CPU what is asked for must not matter to the bytes: a small model takes all, a large one, which gains nothing,
    each by itself.
    """
    if acting is None or not acting.rowwise:
        return 1
    if components.device.type != "cpu":
        return max(1, how.batch_size // len(pictures))
    return 1 << 30 if is_small(components) else 1


def _named(components: Components) -> str:
    return str(components.dtype).removeprefix("torch.")


def _stacked(pictures: Sequence[PictureRequest], name: str, components: Components) -> Tensor | None:
    found = [getattr(picture, name) for picture in pictures]
    return None if found[0] is None else torch.stack(found).to(components.device, torch.float32)


def _inpaint(components: Components, pictures: Sequence[PictureRequest], mask: Tensor | None, how: Drawing) -> Tensor:
    """For a UNet that inpaints; without a mask everything is to be drawn, on an empty picture."""
    masked = _stacked(pictures, "masked", components)
    if mask is None or masked is None:
        mean, _ = latent_moments(components, torch.zeros(1, 3, how.size[1], how.size[0]))
        masked = mean.expand(len(pictures), -1, -1, -1)
        mask = torch.ones(len(pictures), 1, *mean.shape[2:])
    return torch.cat([mask.to(components.device), masked.to(components.device)], 1)


@dataclass(frozen=True)
class _Question:
    """One forward by one of the prompts that AND joins, with the guidance and the share of its answer."""

    forward: Forward
    part: int
    guidance: float
    share: float | Tensor


@dataclass(kw_only=True)
class _Answers:
    """Asks the UNet in step `step`, counted from the first that is done; conditionings of a batch are joined once for each
    variant and wording."""

    components: Components
    pictures: Sequence[PictureRequest]
    how: Drawing
    gates: Gates | None
    inpaint: Tensor | None
    together: int
    step: int = 0
    _joined: dict[Hashable, Conditioning] = field(default_factory=dict)

    def mean(self, scaled: Tensor, t: Tensor, fraction: float, forwards: Sequence[Forward]) -> Tensor:
        """The answers of a step's forwards, averaged by their shares, float32."""
        asked = self._questions(forwards, self.how.guidance_at(fraction))
        batches = [asked[i : i + self.together] for i in range(0, len(asked), self.together)]
        answers = [answer for some in batches for answer in self._some(scaled, t, some)]
        if len(answers) == 1:
            return answers[0]
        whole = sum(one.share for one in asked)
        return sum((a * one.share for a, one in zip(answers, asked, strict=True)), torch.zeros(())) / whole

    def _questions(self, forwards: Sequence[Forward], guidance: float) -> list[_Question]:
        """The forwards by each prompt that AND joins. What is wanted is u + guidance * (w1 * (c1 - u) + w2 * (c2 - u) ...),
        u what the model says without a prompt (Liu et al., 2022): the mean of n answers guided by n * w * guidance."""
        shares = self.pictures[0].shares
        if len(shares) == 1:
            return [_Question(one, 0, guidance, one.share) for one in forwards]
        scale = max(1.0, guidance) * len(shares)
        return [_Question(one, i, scale * w, one.share / len(shares)) for one in forwards for i, w in enumerate(shares)]

    def _some(self, scaled: Tensor, t: Tensor, asked: Sequence[_Question]) -> list[Tensor]:
        """The answers of questions that go through together, each after guidance."""
        joined = len(self.pictures[0].shares) > 1
        two = (joined or asked[0].guidance > 1) and self.components.guidance_width is None
        times = len(asked) * (2 if two else 1)
        inpaint = None if self.inpaint is None else torch.cat([self.inpaint] * times)
        with self._weighed([one.forward for one in asked]):
            told = self._told(tuple((one.forward.variant, one.part) for one in asked), two)
            said = predict(self.components, torch.cat([scaled] * times), t, told, inpaint, asked[0].guidance).float()
        if not two:
            return list(said.chunk(times))
        halves = said.chunk(times)
        pairs = zip(halves[::2], halves[1::2], strict=True)
        return [guided(*pair, one.guidance, self.how.rescale) for pair, one in zip(pairs, asked, strict=True)]

    def _weighed(self, forwards: Sequence[Forward]) -> AbstractContextManager[None]:
        if self.gates is None:
            return nullcontext()
        if len(forwards) == 1:
            return self.gates.at(forwards[0].weights, forwards[0].uses)
        return self.gates.side_by_side([one.weights for one in forwards])

    def _told(self, variants: Sequence[tuple[Hashable, int]], two: bool) -> Conditioning:
        """Of each variant, and the prompt of several that is asked, the negative prompts, where they are asked, and the
        prompts; as they are in this step."""
        spoken: list[Spoken] = []
        for variant, part in variants:
            spoken += [p.negative[variant] for p in self.pictures] if two else []
            spoken += [p.told[variant][part] for p in self.pictures]
        now = tuple(one.now(self.step) for one in spoken)
        if (variants, two, now) not in self._joined:
            rows = [one.wordings[i] for one, i in zip(spoken, now, strict=True)]
            joined = Conditioning.cat(rows).sized(self.how.size)
            self._joined[variants, two, now] = joined.to(self.components.device, self.components.dtype)
        return self._joined[variants, two, now]


def draw(
    components: Components, told: Sequence[Conditioning], negative: Conditioning, seeds: Sequence[int], how: Drawing
) -> Iterator[np.ndarray]:
    """One uint8 picture [h, w, 3] for each seed and its conditioning of one picture, in order."""
    pictures = [PictureRequest.of(seed, one, negative) for one, seed in zip(told, seeds, strict=True)]
    return draw_pictures(components, pictures, how)


def draw_pictures(
    components: Components,
    pictures: Sequence[PictureRequest],
    how: Drawing,
    acting: Acting | None = None,
    watch: Watch | None = None,
) -> Iterator[np.ndarray]:
    """One uint8 picture [h, w, 3] for each, in order.

    On the CPU the bytes of a picture depend on nothing but itself. A sum's last bits depend on the shape of its operands
    and on the number of threads, so pictures go through alone there, or, with a small model, always in twos on one
    thread, a pair on each core; an odd one is drawn with a twin that is thrown away. On other devices `batch_size` go
    through together. Those of a batch are of one length of prompt, and of as many prompts joined by AND.
    """

    def run(chosen: Sequence[PictureRequest]) -> np.ndarray:
        return to_pictures(components, denoise(components, chosen, how, acting, watch))

    alike = [list(group) for _, group in groupby(pictures, key=_asks)]
    if components.device.type != "cpu":
        for group in alike:
            for start in range(0, len(group), how.batch_size):
                yield from run(group[start : start + how.batch_size])
    elif not is_small(components):
        yield from (run([picture])[0] for picture in pictures)
    else:
        twos = [(group[i : i + 2] * 2)[:2] for group in alike for i in range(0, len(group), 2)]
        lengths = [len(group[i : i + 2]) for group in alike for i in range(0, len(group), 2)]
        made = each(run, twos, min(cores(), max(1, how.batch_size // 2)))
        for pair, length in zip(made, lengths, strict=True):
            yield from islice(pair, length)


def _asks(picture: PictureRequest) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """What pictures of one batch have in common."""
    return tuple(one[0].length for one in picture.told.values()), picture.shares
