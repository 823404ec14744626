"""A model with adapters that draws pictures: what `sample`, `prior-gen` and the previews of `train` have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lorakit import __version__
from lorakit.bounds import MOST_SIDE
from lorakit.composition import Composition, effective
from lorakit.composition.wording import Steps, changing, joined_by_and
from lorakit.data import masks
from lorakit.drawing import remarks
from lorakit.drawing.ensemble import Ensemble
from lorakit.drawing.request import Request, Shot
from lorakit.errors import InputError, UsageError, shorten, some
from lorakit.formats import recipes
from lorakit.io.inputs import sha256_of
from lorakit.models.encode import latent_moments, to_tensor
from lorakit.models.load import Components, is_small, load
from lorakit.models.prompts import PromptReading, lost
from lorakit.models.sample import Acting, Drawing, PictureRequest, draw_pictures, solver_of, steps_done
from lorakit.models.solvers import named_spacing
from lorakit.process_config import NOTHING, Overrides
from lorakit.runtime.device import gain_of_bfloat16, pick_device, pick_dtype
from lorakit.schedulers import USUAL
from lorakit.talk import Note

_WORTH = 1.5  # times as fast, before a number format is worth a word
_SHOWN = 80  # letters of a prompt or a trigger word in a note


def load_model(
    name: str,
    device: str,
    dtype: str,
    *,
    note: Note,
    tokenizer: Path | None = None,
    wanted: Overrides = NOTHING,
    vae: str | None = None,
) -> Components:
    """The base model on the chosen device, with what the user says of it; what it is is noted."""
    if name == "tiny":
        note("using the built-in model 'tiny' (64x64 emoji); choose another with --model")
    where = pick_device(device)
    if dtype == "auto" and where.type == "cpu" and (gain := gain_of_bfloat16()) > _WORTH:
        note(
            f"this CPU multiplies {gain:.1f} times as fast in bfloat16: --dtype bfloat16 takes less time; float32 is the default "
            "since it gives the same bytes on other CPUs of its kind"
        )
    components = load(name, where, pick_dtype(dtype, where), tokenizer=tokenizer, wanted=wanted, vae=vae, note=note)
    if components.guidance_width is not None:
        note(
            f"{name} is distilled: its UNet is told the guidance, and asks no negative prompt; training tells it 1, that is none"
        )
    if is_small(components):
        torch.set_num_threads(1)  # `each` uses the cores; operators this short only wait for one another
    return components


def drawing(components: Components, request: Request) -> Drawing:
    """How a request is drawn; UsageError for a size that the model cannot draw."""
    size = request.size or (components.size, components.size)
    if size[0] % components.multiple or size[1] % components.multiple or min(size) < components.multiple:
        raise UsageError(f"--size {size[0]}x{size[1]}: sides must be multiples of {components.multiple} for this model")
    idle = {"--negative": request.negative, "--guidance-rescale": request.rescale}
    if components.guidance_width is not None and any(idle.values()):
        named = " and ".join(option for option, value in idle.items() if value)
        raise UsageError(f"{named}: this model is told the guidance and asks no negative prompt; leave it out")
    if request.hires * max(size) > MOST_SIDE:
        raise UsageError(
            f"--hires {request.hires:g} of {size[0]}x{size[1]}: at most {MOST_SIDE} pixels a side are drawn"
        )
    how = Drawing(
        size=size,
        steps=request.steps,
        guidance=request.guidance,
        scheduler=request.scheduler,
        batch_size=request.batch_size,
        rescale=request.rescale,
        guidance_curve=request.curve(),
        guidance_until=request.guidance_until,
        strength=request.strength if request.image else 1.0,
        spacing=named_spacing(components, request.scheduler, request.spacing),
    )
    solver = solver_of(components, how)
    if (done := len(solver.times) - solver.first(how.strength)) <= 1 and how.strength * request.steps < 1:
        components.say(
            f"--strength {how.strength:g} of {request.steps} steps is less than one step: "
            + ("one is run" if done else "none is run, and the picture is what the autoencoder makes of it")
        )
    return how


def settings_of(request: Request, how: Drawing, prompt: str, seed: int, loras: list[dict[str, Any]]) -> dict[str, Any]:
    """What a drawn picture was made from, for its PNG text; what stands at its default is left out."""
    found = {
        "prompt": prompt,
        "negative": request.negative,
        "seed": seed,
        "steps": how.steps,
        "guidance": how.guidance,
        "scheduler": how.scheduler,
        "size": list(how.size),
        "model": request.model,
        "loras": loras,
        "version": __version__,
    }
    if how.spacing not in (None, USUAL):
        found["spacing"] = how.spacing
    for name in _OPTIONAL:
        value = getattr(request, name)
        if value != getattr(_PLAIN, name):
            found[name] = str(value) if isinstance(value, Path) else value
    return found


_OPTIONAL = (
    "guidance_schedule",
    "guidance_until",
    "rescale",
    "plain",
    "cut",
    "clip_skip",
    "image",
    "strength",
    "mask",
    "hires",
    "hires_strength",
    "dtype",
    "tiling",
    "prediction_type",
    "zero_snr",
    "shift",
    "vae",
    "cut_inputs",
)
_PLAIN = Request(
    prompts=[], count=1, seed=0, negative="", model="", size=None, steps=1, guidance=1.0, scheduler="", batch_size=1
)


def pictures(
    components: Components, request: Request, how: Drawing, jobs: Sequence[tuple[str, int]], note: Note
) -> Iterator[np.ndarray]:
    """uint8 pictures for (prompt, seed) pairs, without adapters; each distinct prompt is encoded once."""
    session = Session(components, [Composition()], note)
    shots = [Shot(replace(request, size=how.size), prompt, seed) for prompt, seed in jobs]
    session.tell(shots)
    return (one.picture for one in session.draw(shots))


@dataclass(frozen=True)
class Drawn:
    """A picture [h, w, 3] uint8, what it was made from, and, where asked for, stages of the denoising."""

    shot: Shot
    picture: np.ndarray
    settings: dict[str, Any]
    stages: tuple[tuple[str, np.ndarray], ...] = ()


class Session:
    """A model with the adapters of some compositions, which draws shots."""

    def __init__(
        self,
        components: Components,
        compositions: Sequence[Composition],
        note: Note,
        limit: int | None = None,
        cut_inputs: bool = False,
    ) -> None:
        self.components, self.note = components, note
        self.ensemble = Ensemble(components, compositions, note, limit, cut_inputs)
        self._acting: dict[Any, tuple[Composition, Acting | None]] = {}
        self._steps: dict[Any, Steps] = {}
        self._said: set[Any] = set()
        self._reminded: set[Path] = set()
        self._starts: dict[Any, tuple[Tensor, Tensor | None, Tensor | None]] = {}
        self._hashes: dict[Path, str] = {}

    def has(self, composition: Composition) -> bool:
        """Whether the adapters of a composition are put on."""
        return all(map(self.ensemble.has, composition.members))

    def tell(self, shots: Iterable[Shot]) -> None:
        """Note, once, what of the prompts is not drawn as the words that stand there. UsageError for what this model cannot
        draw."""
        found: list[remarks.Remark] = []
        for shot in shots:
            if self.components.guidance_width is not None and len(self._prompts(shot)) > 1:
                raise UsageError("AND: this model is told the guidance and draws one prompt at a time; leave it out")
            words = [(member.prompt, False) for member in shot.composition.members]
            for text, negative in ((shot.prompt, False), (shot.request.negative, True), *words):
                if text and (text, negative) not in self._said:
                    self._said.add((text, negative))
                    steps = self._numbered(self._how(shot)) if changing(text) and not shot.request.plain else None
                    found += remarks.of(text, negative, shot.request.plain, steps, self.ensemble.words)
        for line in remarks.lines(found):
            self.components.say(line)

    def _prompts(self, shot: Shot) -> list[tuple[str, float]]:
        """The prompts that AND joins, with their weights."""
        return [(shot.prompt, 1.0)] if shot.request.plain else joined_by_and(shot.prompt)

    def remind(self, shots: Iterable[Shot]) -> None:
        """Note, once for each adapter that acts, what trigger word of it a prompt lacks."""
        for shot in shots:
            acting = [m for m in shot.composition.members if m.weight and m.path not in self._reminded]
            texts = [shot.prompt, shot.request.negative, *(m.prompt for m in shot.composition.members)]
            words = ", ".join(self._drawn_words(text, shot) for text in texts)
            for member in acting:
                lacking = self.ensemble.triggers[member.path].lacking(words, self.ensemble.words.names)
                if lacking:
                    self._reminded.add(member.path)
                    told = shorten(shot.prompt, _SHOWN)
                    self.note(
                        f"{member.path} was trained with {shorten(some(lacking, 3), 3 * _SHOWN)}, which the prompt lacks: {told!r}"
                    )

    def draw(self, shots: Iterable[Shot], stages: int = 0) -> Iterator[Drawn]:
        """The shots in order; those in a row that are drawn alike go through together.

        stages    with each picture what the model took it for along the way, so many times at most
        """
        for _, group in groupby(shots, key=lambda shot: (self._how(shot), id(shot.composition), shot.request.image)):
            alike = list(group)
            if stages:
                yield from (self._with_stages(shot, stages) for shot in alike)
            else:
                made = self._drawn(alike)
                yield from (Drawn(s, x, self.settings(s)) for s, x in zip(alike, made, strict=True))

    def check(self, shots: Iterable[Shot]) -> None:
        """Read the pictures, masks and regions that the shots are drawn from, so that what is wrong with them is told
        before anything is drawn."""
        for shot in shots:
            how = self._how(shot)
            self._acts(shot.composition, how)
            if shot.request.image is not None:
                self._start(shot.request, how.size)

    def settings(self, shot: Shot) -> dict[str, Any]:
        how = self._how(shot)
        found = settings_of(shot.request, how, shot.prompt, shot.seed, self.loras(shot.composition))
        if shot.composition.members:
            found["recipe"] = recipes.write(self._hashed(shot.composition), Path())
        return found

    def _hashed(self, composition: Composition) -> Composition:
        for member in composition.members:
            if member.path not in self._hashes:
                self._hashes[member.path] = sha256_of(member.path)
        return replace(composition, members=tuple(replace(m, sha256=self._hashes[m.path]) for m in composition.members))

    def loras(self, composition: Composition) -> list[dict[str, Any]]:
        """What a picture's text says of the adapters."""
        return [
            {"name": m.name, "weight": m.weight, "sha256": m.sha256, "applied": self.ensemble.counts(m)}
            for m in self._hashed(composition).members
        ]

    def _how(self, shot: Shot) -> Drawing:
        return drawing(self.components, shot.request)

    def _drawn(self, shots: Sequence[Shot], watch: Any = None) -> Iterator[np.ndarray]:
        """Of shots that are drawn alike."""
        request, how = shots[0].request, self._how(shots[0])
        acting = self._acts(shots[0].composition, how)
        asked = [self._asked(shot, how, acting) for shot in shots]
        made = draw_pictures(self.components, asked, how, acting, watch)
        if request.hires > 1:
            made = self._again(shots, made, how)
        for picture in made:
            yield self._pasted(request, picture)

    def _acts(self, composition: Composition, how: Drawing) -> Acting | None:
        key = (id(composition), how.steps, how.scheduler, how.spacing, how.strength, how.size)
        if key not in self._acting:
            steps = steps_done(self.components, how)
            self._acting[key] = composition, self.ensemble.acting(composition, steps, how.size)
        return self._acting[key][1]

    def _asked(self, shot: Shot, how: Drawing, acting: Acting | None) -> PictureRequest:
        request = shot.request
        reading = PromptReading(plain=request.plain, cut=request.cut, clip_skip=request.clip_skip)
        prompt, without = (self._drawn_words(text, shot) for text in (shot.prompt, request.negative))
        told, negative = self.ensemble.told(acting, prompt, without, reading, self._numbered(how))
        if request.cut and shot.prompt not in self._said:
            self._said.add(shot.prompt)
            if left := lost(self.components, prompt, self.ensemble.reading(reading, shot.composition)):
                self.note(f"the prompt is longer than the model reads; left out: {left!r}")
        shares = tuple(weight for _, weight in self._prompts(shot))
        if request.image is None:
            return PictureRequest(seed=shot.seed, told=told, negative=negative, shares=shares)
        start, mask, masked = self._start(request, how.size)
        return PictureRequest(
            seed=shot.seed, told=told, negative=negative, start=start, mask=mask, masked=masked, shares=shares
        )

    def _drawn_words(self, text: str, shot: Shot) -> str:
        """A prompt without what stands in it for files."""
        return text if shot.request.plain else remarks.drawn(text, self.ensemble.words)

    def _numbered(self, how: Drawing) -> Steps:
        """The steps of a drawing, for words that change with them."""
        key = (how.steps, how.scheduler, how.spacing, how.strength, how.size, how.purpose)
        if key not in self._steps:
            self._steps[key] = Steps(len(steps_done(self.components, how)), how.steps, how.purpose == "hires")
        return self._steps[key]

    def _start(self, request: Request, size: tuple[int, int]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Latents of the picture to start from, the mask in their size, and the latents of what it leaves."""
        key = (request.image, request.mask, size)
        if key not in self._starts:
            assert request.image is not None
            x = to_tensor(_opened(request.image, "--image", "RGB", size))[None]
            start = latent_moments(self.components, x)[0][0]
            mask = masked = None
            if request.mask is not None:
                factor = self.components.vae_factor
                cover = masks.either(torch.tensor(_mask(request.mask, size))[None])
                mask = masks.for_latents(cover, factor)
                if not mask.any():
                    self.components.say(
                        f"--mask {request.mask}: none of its white is where one of the latents stands, each {factor}x{factor} "
                        "pixels, so that nothing is drawn anew"
                    )
                if self.components.inpaints:
                    masked = latent_moments(self.components, masks.hidden(x, cover))[0][0]
            elif self.components.inpaints:
                raise UsageError("--image with an inpainting model needs a --mask of what is to be drawn")
            self._starts[key] = start, mask, masked
        return self._starts[key]

    def _pasted(self, request: Request, picture: np.ndarray) -> np.ndarray:
        """Outside the mask the picture stays as it was, byte for byte."""
        if request.mask is None or request.image is None:
            return picture
        size = (picture.shape[1], picture.shape[0])
        cover = _mask(request.mask, size)[..., None].astype(np.float32) / 255
        old = _opened(request.image, "--image", "RGB", size)
        return (picture * cover + old * (1 - cover)).round().astype(np.uint8)

    def _again(self, shots: Sequence[Shot], first: Iterable[np.ndarray], how: Drawing) -> Iterator[np.ndarray]:
        """The pictures drawn larger, from themselves."""
        request, multiple = shots[0].request, self.components.multiple
        width, height = (round(side * request.hires / multiple) * multiple for side in how.size)
        large = replace(how, size=(width, height), strength=request.hires_strength, purpose="hires")
        acting = self._acts(shots[0].composition, large)
        asked = []
        for shot, picture in zip(shots, first, strict=True):
            bigger = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
            start = latent_moments(self.components, to_tensor(np.asarray(bigger))[None])[0][0]
            asked.append(replace(self._asked(shot, large, acting), start=start, mask=None, masked=None))
        return draw_pictures(self.components, asked, large, acting)

    def _with_stages(self, shot: Shot, most: int) -> Drawn:
        from lorakit.models.encode import to_pictures

        seen: list[tuple[int, int, Tensor]] = []
        (picture,) = self._drawn([shot], lambda step, total, x: seen.append((step, total, x[:1].clone())))
        stages = tuple(
            (_stage(shot.composition, step, total), to_pictures(self.components, x)[0])
            for step, total, x in spaced(seen, most)
        )
        return Drawn(shot, picture, self.settings(shot), stages)


Item = TypeVar("Item")


def spaced(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of them, evenly spaced from the first to the last."""
    count = min(most, len(items))
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]


def _stage(composition: Composition, step: int, total: int) -> str:
    """What a stage is called: its step, and the adapters' weights there where they change."""
    if composition.way == "sum" and not any(member.curve for member in composition.members):
        return f"step {step + 1}"
    now = (f"{name} {weights[step]:.2g}" for name, weights in effective(composition, total).items())
    return ", ".join([f"step {step + 1}", *now])


def _opened(file: Path, option: str, mode: str, size: tuple[int, int]) -> np.ndarray:
    """A picture upright, cut to the shape in its middle, and scaled to `size`."""
    from lorakit.data.images import BadPicture, centre, cut, stored
    from lorakit.data.images import load as open_picture

    try:
        if mode == "RGB":
            return np.asarray(cut(image := open_picture(file), centre(image.size, size)))
        return np.asarray(stored(file).convert("L"))
    except BadPicture as error:
        raise InputError(f"{option} {file}: not a picture to be read: {error}") from error


def _mask(file: Path, size: tuple[int, int]) -> np.ndarray:
    """A mask [h, w], 255 where it is drawn anew, of the picture's shape."""
    found = Image.fromarray(_opened(file, "--mask", "L", size))
    if abs(found.width / found.height - size[0] / size[1]) > 0.01:
        raise InputError(
            f"--mask {file} is {found.width}x{found.height}, the picture {size[0]}x{size[1]}: another shape"
        )
    return np.asarray(found.resize(size, Image.Resampling.BILINEAR) if found.size != size else found)
