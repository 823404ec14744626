"""The model card: what the model is, what was measured, and a grid to look at."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lorakit.models.encode import conditioning_of
from lorakit.models.load import load
from lorakit.models.sample import Drawing, draw
from lorakit.models.tiny.build import evaluate, vae
from lorakit.models.tiny.build.concepts import HELD_OUT, HELD_OUT_3D
from lorakit.models.tiny.build.render import Pictures, place_plain
from lorakit.models.tiny.build.sources import TRAIN_STYLES

PROMPTS = tuple(
    """a flat emoji of a red apple;a 3d emoji of a tiger face;a noto emoji of an elephant;a twemoji emoji of a locomotive;
    a 3d emoji of a police car;a flat emoji of a tulip;a noto emoji of a soccer ball;a twemoji emoji of a pear;
    a noto emoji of a grinning face;a 3d emoji of a smiling face with sunglasses;a flat emoji of a croissant;
    a twemoji emoji of a red heart on a black background;a 3d emoji of a rabbit face;a noto emoji of a cheese wedge;
    a flat emoji of jeans;a twemoji emoji of a saxophone;a 3d emoji of a tropical fish;a flat emoji of a butterfly;
    a noto emoji of an eggplant on a pink background;a twemoji emoji of an evergreen tree;a 3d emoji of a flamingo;
    a flat emoji of a lady beetle;a noto emoji of a crescent moon on a navy blue background;a twemoji emoji of a koala;
    a 3d emoji of a lion;a 3d emoji of a banana;a 3d emoji of a house;a 3d emoji of a rose;a 3d emoji of a snowman;
    a photo of a cat;a photo of a car;a noto emoji of an animal""".replace("\n", "")
    .replace("    ", "")
    .split(";")
)


def draw_grid(model: Path, file: Path) -> None:
    """32 prompts, seed 0, 25 steps of dpm++, guidance 4; rows of eight, twice enlarged."""
    components = load(str(model), torch.device("cpu"), torch.float32)
    told, _ = conditioning_of(components, [*PROMPTS, ""])
    made = list(
        draw(
            components,
            [told[i] for i in range(len(told) - 1)],
            told[-1],
            [0] * len(PROMPTS),
            Drawing(size=(64, 64), steps=25, guidance=4.0, scheduler="dpm++"),
        )
    )
    rows = [np.concatenate(made[i : i + 8], 1) for i in range(0, len(made), 8)]
    grid = Image.fromarray(np.concatenate(rows))
    grid.resize((grid.width * 2, grid.height * 2), Image.Resampling.BICUBIC).save(file, optimize=True)


def measure(model: Path, pictures: Pictures) -> dict[str, object]:
    """PSNR of the autoencoder on held-out concepts, styles and on trained pictures, and the classifier's shares."""
    components = load(str(model), torch.device("cpu"), torch.float32)
    sets = {
        "held-out concepts": pictures.where(styles=TRAIN_STYLES, held_out=True),
        "trained concepts": pictures.where(styles=TRAIN_STYLES, trained=True)[::4],
        "OpenMoji (held-out style)": pictures.where(styles=("openmoji",))[::4],
        "high contrast (held-out style)": pictures.where(styles=("contrast",))[::4],
    }
    psnr = {name: round(vae.psnr(components.vae, place_plain(pictures, which)), 2) for name, which in sets.items()}
    return {"psnr": psnr, "accuracy": evaluate.judge(components, pictures)}


def _captioner(figures: Path) -> list[str]:
    """What the small BLIP beside the model was measured at, where there is one."""
    if not figures.is_file():
        return []
    shares = json.loads(figures.read_text(encoding="utf-8"))
    return [
        "## Captioner",
        "",
        "`captioner/` is a BLIP of 2.9 M parameters in float16 for `ppim --caption blip`: 64x64 pictures to",
        '"a 3d emoji of a tiger face on a blue background". It knows the concepts above and those below. Made by',
        "`python -m lorakit.models.tiny.build.captioner WORK`. Shares of plain pictures on blue that it names rightly;",
        "those kept back are known to it in other styles only:",
        "",
        "| pictures | concept | style | colour | all of it |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {name} | {s['concept']:.1%} | {s['style']:.1%} | {s['colour']:.1%} | {s['whole']:.1%} |"
            for name, s in shares.items()
        ),
        "",
        "It went on (`--start`) from an earlier one of the same shapes, which 3,800 steps of 32 views and AdamW had brought to 47.4%",
        "and 75.1%, with 3,800 steps of 64 views and Muon: 50 minutes of one shared thread. From nothing this recipe has not been",
        "run. On white, 342 other pictures that it was shown got the whole caption right. Of 40 pictures that the model itself drew of",
        "concepts it knows, 18 got the right concept and 32 the right style. What it was never shown it mostly names wrong.",
        "",
    ]


def write(model: Path, pictures: Pictures, figures: dict[str, object]) -> None:
    """README.md of the model folder."""
    which = pictures.where(styles=TRAIN_STYLES, trained=True)
    concepts = {pictures.concepts[i].label for i in which}
    psnr: dict[str, float] = figures["psnr"]  # type: ignore[assignment]
    shares: dict[str, tuple[float, float]] = figures["accuracy"]  # type: ignore[assignment]
    lines = [
        "# tiny: the built-in model of lorakit",
        "",
        "A Stable Diffusion of 12.8 M parameters in float16: AutoencoderKL (1.7 M, 64x64 pixels to 16x16x4), CLIPTextModel",
        "(2.2 M, 32 tokens, a vocabulary of 2,048) and UNet2DConditionModel (8.9 M, v-prediction). It draws emoji:",
        f"{len(concepts)} concepts in the styles {', '.join(TRAIN_STYLES)}, {len(which)} pictures in all; prompts read like",
        '"a 3d emoji of a tiger face on a blue background". It is made for trying and testing personalisation, not for art.',
        "",
        "![32 prompts](grid.png)",
        "",
        "The grid: seed 0, 25 steps of dpm++, guidance 4; its prompts are in `build/card.py`, row by row.",
        "",
        "## Measured",
        "",
        "| autoencoder | PSNR in dB |",
        "| --- | --- |",
        *(f"| {name} | {value:.2f} |" for name, value in psnr.items()),
        "",
        "A classifier trained on moved and blurred views of the real pictures names what it sees (20 steps of dpm++,",
        "guidance 4, 4 seeds of each trained picture's prompt):",
        "",
        "| pictures | top 1 | top 5 |",
        "| --- | --- | --- |",
        *(f"| {name} | {one:.1%} | {five:.1%} |" for name, (one, five) in shares.items()),
        "",
        *_captioner(model / "captioner" / "figures.json"),
        "## Never trained on",
        "",
        f"In any style: {', '.join(sorted(HELD_OUT))}.",
        f"In 3d only: {', '.join(sorted(HELD_OUT_3D))}. The styles OpenMoji and Fluent high contrast.",
        "",
        "## Making it again",
        "",
        "`pip install '.[tiny-build]'` and `python -m lorakit.models.tiny.build WORK`; the works it was trained on and their",
        "licences are in NOTICE. From nothing the recipe has been run in a trial only (`--share 0.003`), not in full: these",
        "weights went on from an earlier model of the same recipe and shapes (60 concepts, 26.5 dB; `--start`), with",
        "8,000 steps of the autoencoder (204,800 crops and 19,200 whole pictures), 76,800 samples of 8x8 latents and 217,600",
        "of 16x16, the learning rate of each stage at its peak somewhat longer than the recipe's curve: both stages of 16x16",
        "were cut short while they ran. About an hour and a half of two cores that did other work beside it.",
        "",
    ]
    (model / "README.md").write_text("\n".join(lines), encoding="utf-8", newline="\n")
    (model / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8", newline="\n")
