"""The tour: every command's job in turn on the built-in model, and a page with what they drew."""

import io
from pathlib import Path
from typing import Any

from PIL import Image

from lorakit.config import TrainConfig
from lorakit.drawing.request import Request
from lorakit.errors import RefusedError
from lorakit.io.files import check_place, write_bytes, write_text
from lorakit.io.inputs import existing_folder
from lorakit.io.record import Known, clear, recorded, stranger_in
from lorakit.jobs import merge, ppim, sample, train
from lorakit.jobs.ppim.keeping import STAGING
from lorakit.jobs.train.run_options import known_by_mark
from lorakit.models.described import native_size
from lorakit.models.places import folder_of
from lorakit.reports.page import Page, inline
from lorakit.runtime.locks import held
from lorakit.runtime.signals import telling
from lorakit.talk import SILENT, Note, Talk

# Two subjects the built-in model has never seen, and what it calls their class.
_SUBJECTS = {"fox": ("fox-3d.png", "3d", "animal"), "strawberry": ("strawberry-noto.png", "noto", "fruit")}
_BACKGROUNDS = {
    "white": (255, 255, 255),
    "light blue": (160, 210, 245),
    "yellow": (250, 220, 80),
    "green": (80, 180, 90),
    "pink": (250, 170, 200),
    "purple": (140, 80, 190),
}
_TOKEN = "sks"
_PAGE = "index.html"
_CLASS = 24  # pictures of a subject's class
_STEPS = 25  # of denoising


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def draw_raw(subject: str, folder: Path, size: int = 256) -> None:
    """Photographs of a sort: the subject's picture at several sizes and places on plain backgrounds."""
    file, style, word = _SUBJECTS[subject]
    picture = Image.open(folder_of("tiny") / "subjects" / file).convert("RGBA")
    for i, (name, colour) in enumerate(_BACKGROUNDS.items()):
        side = round(size * (0.80 + 0.03 * i))
        image = Image.new("RGBA", (size, size), (*colour, 255))
        corner = ((size - side) // 2 + (i % 3 - 1) * 6, (size - side) // 2 + (i % 2) * 6)
        image.alpha_composite(picture.resize((side, side), Image.Resampling.LANCZOS), corner)
        where = "" if name == "white" else f" on {_article(name)} background"
        encoded = io.BytesIO()
        image.convert("RGB").save(encoded, "PNG")
        write_bytes(folder / f"{_article(style)} emoji of a {_TOKEN} {word}{where}.png", encoded.getvalue())


def _prepare(raw: Path, data: Path, template: str, *, dry_run: bool, note: Note) -> None:
    side, multiple = native_size("tiny")
    settings = ppim.Settings(
        size=(side, side),
        multiple=multiple,
        crop="center",
        caption="none" if template else "filename",
        template=template,
        token=_TOKEN,
        image_format="png",
        min_size=1,
        dedup=True,
    )
    ppim.run(raw, data, settings, force=False, strict=False, dry_run=dry_run, talk=Talk(note=note))


def _template(word: str) -> str:
    """The caption of photographs of this class."""
    return f"a photo of a {{token}} {word}"


class _Tour:
    """Carries the folder and the page through the steps."""

    def __init__(self, out: Path, seed: int, steps: int, talk: Talk):
        self.out, self.seed, self.steps, self.note, self.tick = out, seed, steps, talk.note, talk.tick
        self.page = Page("lorakit demo: subjects learnt from a few pictures")

    def prepare(self, name: str, raw: Path, template: str) -> Path:
        data = self.out / name / "data"
        _prepare(raw, data, template, dry_run=False, note=self.note)
        self.page.heading(f"{name}: the pictures it was learnt from")
        for file in sorted(data.glob("*.png"))[:8]:
            self.figure(file, (file.with_suffix(".txt")).read_text(encoding="utf-8").strip())
        return data

    def figure(self, file: Path, caption: str) -> None:
        with Image.open(file) as image:
            self.page.figure(inline(image.convert("RGB"), 192), caption)

    def learn(self, name: str, data: Path, class_prompt: str) -> Path:
        self.note(f"{name}: drawing class pictures and training, {self.steps} steps")
        target = self.out / name / "lora.safetensors"
        config = TrainConfig(
            mode="dreambooth", class_prompt=class_prompt, prior_count=_CLASS, steps=self.steps, seed=self.seed
        )
        # All in the folder is the tour's: a run that was cut off goes on, a finished one of the same options stays.
        life = train.RunOptions(output=target, run_folder=self.out / name / "run", keep=1, force=True)
        train.run(data, config, life, Talk(tick=self.tick))
        return target

    def draw(self, folder: str, prompts: list[str], loras: list[str]) -> None:
        request = Request(
            prompts=prompts,
            count=1,
            seed=self.seed,
            negative="",
            model="tiny",
            size=None,
            steps=_STEPS,
            guidance=4.0,
            scheduler="dpm++",
            batch_size=8,
        )
        made = sample.run(
            request, self.out / folder, loras=loras, device="auto", force=True, dry_run=False, talk=SILENT
        )
        for file, prompt in zip(made["outputs"], prompts, strict=True):
            self.figure(Path(file), prompt)

    def before_after(self, name: str, prompts: list[str], adapter: Path) -> None:
        self.page.heading(f"{name}: before training")
        self.draw(f"{name}/before", prompts, [])
        self.page.heading(f"{name}: after training, and the class without the token")
        self.draw(f"{name}/after", prompts, [str(adapter)])


def _known(folder: Path) -> Known | None:
    """What is lorakit's in the folders of a tour without being in a record: what `ppim` and `train` know of theirs."""
    if folder.name == STAGING:
        return lambda name, listed: True
    if folder.name == "run":
        return lambda name, listed: known_by_mark(folder, name)
    return ppim.known(folder) if folder.name == "data" else None


def _subject(tour: _Tour, name: str) -> tuple[Path, str]:
    _, style, word = _SUBJECTS[name]
    raw = tour.out / name / "raw"
    draw_raw(name, raw)
    prompt = f"{_article(style)} emoji of a {_TOKEN} {word}"
    plain = f"{_article(style)} emoji of {_article(word)}"
    adapter = tour.learn(name, tour.prepare(name, raw, ""), plain)
    tour.before_after(
        name, [prompt, f"{prompt} on an orange background", f"{prompt} on a blue background", plain], adapter
    )
    return adapter, prompt


def _photos(tour: _Tour, photos: Path, word: str) -> tuple[Path, str]:
    prompt, plain = f"a photo of a {_TOKEN} {word}", f"a photo of {_article(word)}"
    data = tour.prepare("photos", photos, _template(word))
    adapter = tour.learn("photos", data, plain)
    tour.before_after("photos", [prompt, f"{prompt} on a blue background", plain], adapter)
    return adapter, prompt


def run(
    out: Path, *, photos: Path | None, word: str, steps: int, seed: int, force: bool, dry_run: bool, talk: Talk
) -> dict[str, Any]:
    """The tour into `out`; the page is `out`/index.html. The last step writes it, so that a page is a whole tour.

    A tour that was cut off goes on. A whole one is refused, or with `force` made anew: what lorakit wrote there goes
    first. A folder with anything else in it is refused.
    """
    check_place(out)
    if out.is_dir() and (stranger := stranger_in(out, _known)) is not None:
        raise RefusedError(
            f"{out} holds {stranger}, which lorakit did not write or which was changed since; choose another folder"
        )
    if (out / _PAGE).exists() and not force:
        raise RefusedError(f"{out} holds a whole tour; choose another folder or make it anew with --force")

    if photos is not None:
        existing_folder(photos, "photographs")

    def known(name: str, listed: bool) -> bool:
        folder, _, inner = name.rpartition("/")
        told = _known(out / folder)
        return told is not None and told(inner, listed)

    with held(out, dry_run=dry_run), recorded(out, known):
        if dry_run:
            if photos is not None:  # all other pictures are lorakit's own
                _prepare(photos, out / "photos" / "data", _template(word), dry_run=True, note=talk.note)
            talk.note(f"the whole tour would be made in {out}, its page {out / _PAGE}")
            return {"outputs": [], "adapters": None}
        if force:
            clear(out, _known)
        with telling(lambda: f"what is finished stays in {out}; the same command goes on with it"):
            return _toured(out, photos, word, steps, seed, talk)


def _toured(out: Path, photos: Path | None, word: str, steps: int, seed: int, talk: Talk) -> dict[str, Any]:
    tour = _Tour(out, seed, steps, talk)
    learnt = [_photos(tour, photos, word)] if photos else [_subject(tour, "fox")]
    learnt.append(_subject(tour, "strawberry"))
    merged = out / "merged.safetensors"
    merge.run(
        [str(path) for path, _ in learnt],
        merged,
        alpha=None,
        weights="0.8,0.8",
        method="linear",
        rank=None,
        file_format="kohya",
        dtype="float32",
        force=True,
        dry_run=False,
        talk=Talk(note=talk.note),
    )
    tour.page.heading("both adapters merged into one, each at 0.8")
    tour.draw("merged", [prompt for _, prompt in learnt], [str(merged)])
    write_text(out / _PAGE, tour.page.render())
    return {"outputs": [str(out / _PAGE)], "adapters": [str(path) for path, _ in learnt] + [str(merged)]}
