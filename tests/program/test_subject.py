"""What the built-in model learns, measured: similarity is the centred cosine of 2x2-pooled VAE latents with the clean
picture on the same background, in a gallery of 600 real pictures, or of a third of them."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from lorakit.cli import _run
from lorakit.jobs.demo import draw_raw
from lorakit.models.encode import latent_moments, to_tensor
from lorakit.models.load import load

pytestmark = pytest.mark.slow
DATA = Path(__file__).parents[1] / "data"
SOME = slice(None, None, 3)  # of each style a third
PROMPT, CLASS = "a 3d emoji of a sks animal", "a 3d emoji of an animal"


class Gallery:
    """Clean pictures on white as centred features; `names[i]` is "style label"."""

    def __init__(self, pictures: slice = slice(None)) -> None:
        self.model = load("tiny", torch.device("cpu"), torch.float32)
        names = (DATA / "gallery.txt").read_text().splitlines()
        self.names = names[pictures]
        sheet = np.asarray(Image.open(DATA / "gallery.png").convert("RGB"))
        tiles = [
            sheet[r : r + 64, c : c + 64] for r in range(0, sheet.shape[0], 64) for c in range(0, sheet.shape[1], 64)
        ]
        raw = self.raw_features(tiles[: len(names)][pictures])
        self.mean = raw.mean(0)
        self.features = functional.normalize(raw - self.mean, dim=1)

    def raw_features(self, pictures: list[np.ndarray]) -> torch.Tensor:
        x = torch.stack([to_tensor(picture) for picture in pictures])
        z = torch.cat([latent_moments(self.model, part)[0] for part in x.split(64)])
        return functional.avg_pool2d(z, 2).flatten(1)

    def look(self, folder: Path, subject: str) -> tuple[float, list[int]]:
        """Mean similarity of the PNGs in a folder to the subject, and its rank in the gallery for each."""
        pictures = [np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))]
        scores = functional.normalize(self.raw_features(pictures) - self.mean, dim=1) @ self.features.T
        own = self.names.index(subject)
        ranks = [int((row > row[own]).sum()) + 1 for row in scores]
        return float(scores[:, own].mean()), ranks


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return Gallery()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("subject")


@pytest.fixture(scope="module")
def run(home):
    def run(*arguments: object) -> dict:
        threads = torch.get_num_threads()
        with contextlib.chdir(home), contextlib.redirect_stdout(io.StringIO()) as said:
            assert _run([*map(str, arguments), "--json"]) == 0
        torch.set_num_threads(threads)
        return json.loads(said.getvalue())

    return run


def draw(run, prompt: str, out: str, *more: object) -> None:
    run("sample", prompt, "-o", out, "-n", 4, "--steps", 10, "--guidance", 4, "--seed", 3, *more)


@pytest.fixture(scope="module")
def data(run, home) -> Path:
    for subject in ("fox", "strawberry"):
        draw_raw(subject, home / "raw" / subject)
        run("ppim", home / "raw" / subject, home / subject, "--caption", "filename")
    return home


@pytest.fixture(scope="module")
def plain(run, data) -> Path:
    run("train", "fox", "-o", "plain.safetensors", "--steps", 100, "--batch-size", 3)
    return data / "plain.safetensors"


@pytest.fixture(scope="module")
def preserved(run, data) -> Path:
    run("train", "fox", "-o", "kept.safetensors", "--mode", "dreambooth", "--class-prompt", CLASS, "--prior-count", 16)
    return data / "kept.safetensors"


def test_a_held_out_subject_is_learnt(run, home, plain):
    draw(run, PROMPT, "before")
    draw(run, PROMPT, "after", "--lora", plain)
    gallery = Gallery(SOME)
    before, _ = gallery.look(home / "before", "3d fox")
    after, ranks = gallery.look(home / "after", "3d fox")
    print(f"similarity {before:.2f} -> {after:.2f}, ranks {ranks}")
    assert before < 0.3 and after > 0.8 and ranks == [1, 1, 1, 1]


@pytest.mark.thorough
def test_prior_preservation_keeps_the_class(run, home, plain, preserved, gallery):
    draw(run, CLASS, "class-plain", "--lora", plain)
    draw(run, CLASS, "class-kept", "--lora", preserved)
    leaked, _ = gallery.look(home / "class-plain", "3d fox")
    kept, _ = gallery.look(home / "class-kept", "3d fox")
    print(f"class prompt's similarity {leaked:.2f} without, {kept:.2f} with")
    assert kept <= leaked - 0.5


@pytest.mark.thorough
def test_a_merged_adapter_shows_both(run, home, preserved, data, gallery):
    prompt, plain = "a noto emoji of a sks fruit", "a noto emoji of a fruit"
    run(
        "train",
        "strawberry",
        "-o",
        "second.safetensors",
        "--mode",
        "dreambooth",
        "--class-prompt",
        plain,
        "--prior-count",
        16,
    )
    run("merge", preserved, "second.safetensors", "--weights", "1,1", "-o", "both.safetensors")
    draw(run, PROMPT, "both-fox", "--lora", "both.safetensors")
    draw(run, prompt, "both-strawberry", "--lora", "both.safetensors")
    fox, fox_ranks = gallery.look(home / "both-fox", "3d fox")
    berry, berry_ranks = gallery.look(home / "both-strawberry", "noto strawberry")
    print(f"merged: fox {fox:.2f} {fox_ranks}, strawberry {berry:.2f} {berry_ranks}")
    assert fox > 0.6 and berry > 0.6 and sorted(fox_ranks)[1] <= 3 and sorted(berry_ranks)[1] <= 3


@pytest.mark.thorough
def test_extraction_keeps_what_full_training_learnt(run, home, data, gallery):
    run("train", "fox", "-o", "tuned", "--mode", "full")
    done = run("extract", "tuned", "--base", "tiny", "--rank", 16, "-o", "extracted.safetensors")
    draw(run, PROMPT, "full", "-m", "tuned")
    draw(run, PROMPT, "extracted", "--lora", "extracted.safetensors")
    full, _ = gallery.look(home / "full", "3d fox")
    extracted, _ = gallery.look(home / "extracted", "3d fox")
    print(f"full {full:.2f}, extracted {extracted:.2f}, energy {done['energy_kept']['mean']:.2f}")
    assert full > 0.7 and extracted >= 0.9 * full


def test_prior_pictures_do_not_depend_on_batch_size_or_interruption(run, home):
    run("prior-gen", CLASS, "p1", "-n", 4, "--steps", 4)
    run("prior-gen", CLASS, "p2", "-n", 2, "--steps", 4, "--batch-size", 1)
    made = run("prior-gen", CLASS, "p2", "-n", 4, "--steps", 4, "--batch-size", 3)
    assert made["made"] == 2 and made["kept"] == 2
    for i in range(4):
        assert (home / "p1" / f"{i:05d}.png").read_bytes() == (home / "p2" / f"{i:05d}.png").read_bytes()


@pytest.mark.thorough
def test_in_bfloat16_the_subject_is_learnt_as_well(run, home, plain, gallery):
    run("train", "fox", "-o", "half.safetensors", "--steps", 200, "--batch-size", 4, "--dtype", "bfloat16")
    similar = []
    for name in ("plain", "half"):
        draw(run, PROMPT, f"by-{name}", "--lora", home / f"{name}.safetensors")
        similar.append(gallery.look(home / f"by-{name}", "3d fox")[0])
    print(f"similarity {similar[0]:.3f} in float32, {similar[1]:.3f} in bfloat16")
    assert abs(similar[0] - similar[1]) < 0.02
