"""A small BLIP (Li et al., 2022) that names the emoji: `python -m lorakit.models.tiny.build.captioner WORK`.

It is what `ppim --caption blip` uses where no other model is named, and has the classes of the large ones:
BlipForConditionalGeneration, BlipImageProcessor, BertTokenizer. A run that was cut off goes on from its checkpoint.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    BlipTextConfig,
    BlipVisionConfig,
)

from lorakit.models.tiny.build import render
from lorakit.models.tiny.build.captions import article
from lorakit.models.tiny.build.concepts import HELD_OUT_3D, Concept
from lorakit.models.tiny.build.sources import TRAIN_STYLES

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # their places are their numbers
PAD, CLS, SEP = 0, 2, 3


@dataclass(frozen=True, kw_only=True)
class Recipe:
    steps: int = 3800
    batch: int = 64
    rate: float = 1e-3
    flat: float = 0.6  # share of the steps at the full rate, on widely moved and scaled views; then as pictures come
    naming: float = 1.0  # weight of naming concept and style from the pooled picture, heads that are thrown away
    ema: float = 0.997
    save_every: int = 100

    def rate_at(self, step: int) -> float:
        """A short warm-up, the full rate, and a straight fall to nothing."""
        fall = max(0.0, (step / self.steps - self.flat) / (1 - self.flat))
        return self.rate * min(1.0, (step + 1) / 40) * (1 - fall)


def caption(concept: Concept, style: str, background: str) -> str:
    """The one wording it learns: "a 3d emoji of a tiger face on a blue background", white left unsaid."""
    text = f"{article(style)} emoji of {article(concept.label)}"
    return text if background == "white" else f"{text} on {article(background)} background"


def known(concept: Concept, style: str) -> bool:
    """It names what the built-in model draws, and the subjects that model never saw, in every style."""
    return concept.held_out or concept.label in HELD_OUT_3D or concept.trained(style)


def tested(concept: Concept, style: str) -> bool:
    """Every tenth concept is kept from training in one style, to see whether it is known again from the others."""
    number = int(concept.code.partition("-")[0], 16)
    return number % 10 == 0 and TRAIN_STYLES[number // 10 % 4] == style


def vocabulary(concepts: list[Concept]) -> list[str]:
    """Whole words of all captions, and the letters that any other word is spelt with."""
    text = " ".join(caption(c, style, colour) for c in concepts for style in TRAIN_STYLES for colour in render.COLOURS)
    words = BertTokenizer(vocab={name: i for i, name in enumerate(_SPECIAL)}).backend_tokenizer
    found = {word for word, _ in words.pre_tokenizer.pre_tokenize_str(words.normalizer.normalize_str(text))}
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    return [*_SPECIAL, *sorted({*letters, *(f"##{x}" for x in letters), *found})]


def new_model(size: int) -> BlipForConditionalGeneration:
    """A BLIP over 64x64 pictures in patches of 8 and a vocabulary of `size`."""
    text = BlipTextConfig(
        vocab_size=size,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        bos_token_id=CLS,
        eos_token_id=SEP,
        sep_token_id=SEP,
        pad_token_id=PAD,
        projection_dim=64,
    )
    vision = BlipVisionConfig(
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=64,
        patch_size=8,
        projection_dim=64,
        initializer_range=0.02,
    )
    config = BlipConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64, image_text_hidden_size=64
    )
    return BlipForConditionalGeneration(config)


def processor(words: list[str]) -> BlipProcessor:
    half = [0.5, 0.5, 0.5]
    pictures = BlipImageProcessor(size={"height": 64, "width": 64}, image_mean=half, image_std=half)
    return BlipProcessor(pictures, BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=32))


class Trial(nn.Module):
    """The model and the heads that only training has."""

    def __init__(self, words: int, concepts: int) -> None:
        super().__init__()
        self.blip = new_model(words)
        self.naming = nn.Linear(192, concepts)
        self.styling = nn.Linear(192, len(TRAIN_STYLES))

    def loss(self, x: Tensor, ids: Tensor, concepts: Tensor, styles: Tensor, weight: float) -> Tensor:
        seen = self.blip.vision_model(pixel_values=x)
        spoken = self.blip.text_decoder(
            input_ids=ids,
            attention_mask=(ids != PAD).long(),
            encoder_hidden_states=seen.last_hidden_state,
            labels=ids.masked_fill(ids == PAD, -100),
        )
        named = functional.cross_entropy(self.naming(seen.pooler_output), concepts)
        return spoken.loss + weight * (named + functional.cross_entropy(self.styling(seen.pooler_output), styles))

    def optimizers(self, rate: float) -> list[torch.optim.Optimizer]:
        """Muon (Jordan, 2024) for the matrices between layers, AdamW for all else."""
        hidden = [p for name, p in self.blip.named_parameters() if p.ndim == 2 and ".layer" in name]
        inside = {id(p) for p in hidden}
        rest = [p for p in self.parameters() if id(p) not in inside]
        return [
            torch.optim.Muon(hidden, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.99), weight_decay=0.02),
        ]


def views(pictures: render.Pictures, which: list[int], wide: bool, draw: random.Random) -> tuple[Tensor, list[str]]:
    """Moved, scaled, faintly recoloured views [n, 3, 64, 64] in -1..1, and the colour each lies on."""
    count = len(which)
    names, colours = render.random_backgrounds(count, 0.5, draw)
    least, most, far = (0.72, 1.0, 0.1) if wide else (0.78, 0.96, 0.05)
    scale = torch.tensor([draw.uniform(least, most) for _ in range(count)])
    shift = torch.tensor([[draw.uniform(-far, far) for _ in "xy"] for _ in range(count)])
    x = render.place(render.premultiplied(pictures, which), colours, scale, shift)
    gain = torch.tensor([draw.uniform(0.9, 1.1) for _ in range(count)])[:, None, None, None]
    blurred = torch.tensor([draw.random() < 0.25 for _ in range(count)])[:, None, None, None]
    return torch.where(blurred, functional.avg_pool2d(x, 3, 1, 1), x).mul(gain).clamp(-1, 1), names


def _batches(count: int, recipe: Recipe, first: int) -> Iterator[tuple[int, list[int]]]:
    for step in range(first, recipe.steps):
        epoch, at = divmod(step * recipe.batch, count - count % recipe.batch)
        yield step, random.Random(f"captioner/{epoch}").sample(range(count), count)[at : at + recipe.batch]


@torch.no_grad()
def judge(blip: Any, words: BlipProcessor, pictures: render.Pictures, which: list[int]) -> dict[str, float]:
    """Shares of plain pictures on blue whose caption names the concept, the style, the colour, and all of it."""
    rights = {"concept": 0, "style": 0, "colour": 0, "whole": 0}
    for start in range(0, len(which), 64):
        part = which[start : start + 64]
        x = render.place_plain(pictures, part, colour="blue")
        said = words.batch_decode(blip.generate(x, num_beams=3, max_new_tokens=20), skip_special_tokens=True)
        for i, text in zip(part, said, strict=True):
            label, style = pictures.concepts[i].label, pictures.styles[i]
            wanted = words.decode(words.tokenizer(caption(pictures.concepts[i], style, "blue")).input_ids, True)
            named = words.decode(words.tokenizer(article(label)).input_ids, True)
            rights["concept"] += f" of {named} on " in f"{text} on "
            rights["style"] += f" {style} emoji" in text
            rights["colour"] += text.endswith(" a blue background")
            rights["whole"] += text == wanted
    return {name: round(count / max(1, len(which)), 4) for name, count in rights.items()}


class _CaptionerState:
    """All that changes in training, on disk as `captioner.checkpoint`."""

    def __init__(self, trial: Trial, recipe: Recipe, work: Path) -> None:
        self.trial, self.recipe, self.work, self.step = trial, recipe, work, 0
        self.averaged = torch.optim.swa_utils.AveragedModel(
            trial, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema)
        )
        self.optimizers = trial.optimizers(recipe.rate)
        if (work / "captioner.checkpoint").is_file():
            state = torch.load(work / "captioner.checkpoint", weights_only=True)
            self.step = state["step"]
            self.trial.load_state_dict(state["trial"])
            self.averaged.load_state_dict(state["averaged"])
            for optimizer, its in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(its)

    def save(self) -> None:
        state = {"step": self.step, "trial": self.trial.state_dict(), "averaged": self.averaged.state_dict()}
        partial = self.work / "captioner.partial"
        torch.save({**state, "optimizers": [o.state_dict() for o in self.optimizers]}, partial)
        partial.replace(self.work / "captioner.checkpoint")

    def advance(self, loss: Tensor) -> None:
        self.trial.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.trial.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.rate_at(self.step)
            optimizer.step()
        self.averaged.update_parameters(self.trial)
        self.step += 1


def train(pictures: render.Pictures, work: Path, recipe: Recipe, start: Path | None = None) -> None:
    """Train or go on training, from the weights in `start` where given; writes `work/captioner`, float16, with its
    figures."""
    torch.set_num_threads(1)
    pairs = list(zip(pictures.concepts, pictures.styles, strict=True))
    ours = [i for i, (concept, style) in enumerate(pairs) if style in TRAIN_STYLES and known(concept, style)]
    shown, kept = ([i for i in ours if tested(*pairs[i]) == test] for test in (False, True))
    codes = sorted({pictures.concepts[i].code for i in ours})
    words = vocabulary([pictures.concepts[i] for i in ours])
    speak = processor(words)
    torch.manual_seed(0)
    trial = Trial(len(words), len(codes)).train()
    if start:
        trial.blip.load_state_dict(
            BlipForConditionalGeneration.from_pretrained(start, dtype=torch.float32).state_dict()
        )
    state = _CaptionerState(trial, recipe, work)
    size = sum(p.numel() for p in trial.blip.parameters())
    print(
        f"{len(shown)} pictures, {len(kept)} kept back, {len(words)} words, {size / 1e6:.2f} M parameters", flush=True
    )
    started, average, first = time.monotonic(), 0.0, state.step
    for step, places in _batches(len(shown), recipe, first):
        part = [shown[i] for i in places]
        x, colours = views(pictures, part, step < recipe.flat * recipe.steps, random.Random(f"captioner/step/{step}"))
        said = [caption(*pairs[i], colour) for i, colour in zip(part, colours, strict=True)]
        ids = speak.tokenizer(said, padding=True, return_tensors="pt").input_ids
        concepts = torch.tensor([codes.index(pictures.concepts[i].code) for i in part])
        styles = torch.tensor([TRAIN_STYLES.index(pictures.styles[i]) for i in part])
        with torch.autocast("cpu", torch.bfloat16):  # where the CPU knows it, twice as fast
            loss = trial.loss(x, ids, concepts, styles, recipe.naming)
        state.advance(loss)
        average = float(loss.detach()) if step == first else 0.98 * average + 0.02 * float(loss.detach())
        if state.step % recipe.save_every == 0 or state.step == recipe.steps:
            state.save()
            took = time.monotonic() - started
            speed = (state.step - first) * recipe.batch / took
            print(f"captioner {state.step}/{recipe.steps}: loss {average:.3f}, {took:.0f} s, {speed:.0f}/s", flush=True)
    blip: Any = state.averaged.get_submodule("module.blip").half().eval()
    out = work / "captioner"
    blip.save_pretrained(out)
    speak.save_pretrained(out)
    blip = BlipForConditionalGeneration.from_pretrained(out, dtype=torch.float32).eval()
    figures = {"shown": judge(blip, speak, pictures, shown[::4]), "kept back": judge(blip, speak, pictures, kept)}
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8", newline="\n")
    print(figures, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lorakit.models.tiny.build.captioner", description=__doc__)
    parser.add_argument("work", type=Path, help="folder for downloads, checkpoints and results")
    parser.add_argument("--start", type=Path, help="a captioner folder of the same shapes to go on from")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    train(render.render(options.work / "npm", options.work), options.work, Recipe(steps=options.steps), options.start)


if __name__ == "__main__":
    main()
