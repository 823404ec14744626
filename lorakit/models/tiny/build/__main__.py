"""`python -m lorakit.models.tiny.build WORK`: the built-in model from nothing, stage by stage.

Each stage leaves its result in WORK; a stage that is done is passed over, and one that was cut off goes on.
"""

import argparse
import dataclasses
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from lorakit.models.tiny.build import card, denoiser, export, render, tokenizer, vae

STAGES = (
    denoiser.Stage(name="stage8", side=8, steps=1200, batch=32, rate=1e-3, flat=0.7),
    denoiser.Stage(name="stage16", side=16, steps=3600, batch=16, rate=8e-4, flat=0.4),
    denoiser.Stage(name="stage16b", side=16, steps=3200, batch=16, rate=8e-4, flat=0.35),
)


def scaled(stage: denoiser.Stage, share: float) -> denoiser.Stage:
    """The same stage in fewer or more steps."""
    return dataclasses.replace(stage, steps=max(1, round(stage.steps * share)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lorakit.models.tiny.build", description=__doc__)
    parser.add_argument("work", type=Path, help="folder for downloads, checkpoints and results")
    parser.add_argument("--out", type=Path, help="where the finished model goes; default WORK/model")
    parser.add_argument("--start", type=Path, help="a model folder of the same shapes to go on from")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--variants", type=int, default=6, help="encoded views of each picture")
    parser.add_argument("--share", type=float, default=1.0, help="of all steps; below 1 for a trial of the recipe")
    options = parser.parse_args()
    work, start = options.work, options.start
    work.mkdir(parents=True, exist_ok=True)
    pictures = render.render(work / "npm", work)
    concepts = sorted({concept.code: concept for concept in pictures.concepts}.values(), key=lambda c: c.code)
    words = start / "tokenizer" if start else tokenizer.train(concepts, work)
    made = vae.train(
        pictures,
        work,
        vae.VaeRecipe(steps=max(1, round(8000 * options.share))),
        options.processes,
        start / "vae" if start else None,
    )
    autoencoder = AutoencoderKL.from_pretrained(made)
    torch.manual_seed(0)
    models = (denoiser.new_unet(), denoiser.new_text_encoder())
    if start:
        models = (
            UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32),
            CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32),
        )
    for stage in STAGES:
        models = denoiser.train(
            pictures,
            autoencoder,
            words,
            work=work,
            stage=scaled(stage, options.share),
            world=options.processes,
            begin=models,
            variants=options.variants,
        )
    out = options.out or work / "model"
    export.export(autoencoder, *models, words, out)
    card.draw_grid(out, out / "grid.png")
    card.write(out, pictures, card.measure(out, pictures))


if __name__ == "__main__":
    main()
