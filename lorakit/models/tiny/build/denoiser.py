"""The UNet and its text encoder, trained together: a cheap stage on 8x8 latents, then the real one on 16x16."""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn import Parameter
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lorakit.models.tiny.build import parallel
from lorakit.models.tiny.build.captions import caption
from lorakit.models.tiny.build.concepts import Concept
from lorakit.models.tiny.build.render import Pictures, place, premultiplied, random_backgrounds
from lorakit.models.tiny.build.sources import TRAIN_STYLES
from lorakit.models.tiny.build.tokenizer import LENGTH, SIZE


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stretch of training on latents of one size."""

    name: str
    side: int
    steps: int
    batch: int  # a process
    rate: float
    flat: float = 0.5  # share of the steps before the rate falls
    drop: float = 0.1  # of captions, for classifier-free guidance
    save_every: int = 250


@dataclass(frozen=True)
class EncodedPictures:
    """Pictures encoded ahead: values [n, 4, s, s] bfloat16, and what each shows. Small enough to share whole."""

    values: Tensor
    which: tuple[int, ...]
    backgrounds: tuple[str, ...]


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="leading",
    )


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        cross_attention_dim=192,
        attention_head_dim=(2, 4, 6),
        norm_num_groups=16,
    )


def new_text_encoder() -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=SIZE,
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=3,
            max_position_embeddings=LENGTH,
            bos_token_id=SIZE - 2,
            eos_token_id=SIZE - 1,
            pad_token_id=SIZE - 1,
            projection_dim=192,
            hidden_act="quick_gelu",
        )
    )


def parameters(unet: UNet2DConditionModel, text: CLIPTextModel) -> Iterator[Parameter]:
    yield from unet.parameters()
    yield from text.parameters()


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=LENGTH)


@torch.no_grad()
def encode(pictures: Pictures, vae: AutoencoderKL, side: int, variants: int, work: Path) -> EncodedPictures:
    """Each trained picture once clean on white and `variants` - 1 times moved, scaled and on other colours."""
    out = work / f"latents{side}.pt"
    if not out.is_file():
        which = pictures.where(styles=TRAIN_STYLES, trained=True)
        values: list[Tensor] = []
        shown: list[int] = []
        names: list[str] = []
        for variant in range(variants):
            for start in range(0, len(which), 64):
                part = which[start : start + 64]
                draw, count = random.Random(f"{variant}/{start}"), len(part)
                background, colours = random_backgrounds(count, 1.0 if variant == 0 else 0.4, draw)
                moved = float(variant > 0)
                scale = torch.tensor([0.88 + moved * draw.uniform(-0.08, 0.06) for _ in range(count)])
                shift = torch.tensor([[moved * draw.uniform(-0.06, 0.06) for _ in "xy"] for _ in range(count)])
                x = place(premultiplied(pictures, part), colours, scale, shift, side * 4)
                values.append(vae.encode(x).latent_dist.mode().mul(vae.config.scaling_factor).bfloat16())
                shown, names = shown + part, names + background
        torch.save({"values": torch.cat(values), "which": shown, "backgrounds": names}, out)
    saved = torch.load(out, weights_only=True)
    return EncodedPictures(saved["values"].share_memory_(), tuple(saved["which"]), tuple(saved["backgrounds"]))


def loss(unet: UNet2DConditionModel, states: Tensor, z: Tensor, alphas: Tensor) -> Tensor:
    """v-prediction (Salimans and Ho, 2022) under min-SNR-5 weights (Hang et al., 2023); noise from torch's own state."""
    noise, t = torch.randn_like(z), torch.randint(0, len(alphas), (len(z),))
    a = alphas[t][:, None, None, None]
    x, target = a.sqrt() * z + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * z
    snr = alphas[t] / (1 - alphas[t])
    predicted = unet(x, t, states).sample.float()
    return ((predicted - target).square().mean((1, 2, 3)) * snr.clamp(max=5) / (snr + 1)).mean()


def _worker(
    rank: int,
    shared: parallel.SharedParameters,
    latents: EncodedPictures,
    shown: list[tuple[Concept, str]],
    tokenizer_folder: Path,
    stage: Stage,
    work: Path,
    first: int,
) -> None:
    torch.set_num_threads(1)
    unet, text, tokenizer = new_unet().train(), new_text_encoder().train(), load_tokenizer(tokenizer_folder)
    shared.attach(parameters(unet, text), rank)
    alphas, curve = scheduler().alphas_cumprod, parallel.RateCurve(stage.rate, stage.steps, flat=stage.flat)
    started, average = time.monotonic(), 0.0
    batch = stage.batch * shared.world
    for step in range(first, stage.steps):
        # One shuffle an epoch, the same in every process; each takes its own stretch of the batch.
        epoch, place_in = divmod(step * batch, len(shown) - len(shown) % batch)
        order = random.Random(f"{stage.name}/{epoch}").sample(range(len(shown)), len(shown))
        mine = order[place_in + rank * stage.batch :][: stage.batch]
        draw = random.Random(f"{stage.name}/{step}/{rank}")
        torch.manual_seed(step * 64 + rank)
        words = ["" if draw.random() < stage.drop else caption(*shown[i], latents.backgrounds[i], draw) for i in mine]
        ids = tokenizer(words, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.autocast("cpu", torch.bfloat16):
            total = loss(unet, text(ids)[0], latents.values[mine].float(), alphas)
        total.backward()
        shared.loss[rank] = total.detach()
        shared.step(rank, step, curve(step), decay=0.01, ema=0.999)
        average = float(shared.loss.mean()) if step == first else 0.99 * average + 0.01 * float(shared.loss.mean())
        if rank == 0 and (step - first in (1, 20) or (step + 1) % stage.save_every == 0 or step + 1 == stage.steps):
            took = time.monotonic() - started
            speed = (step + 1 - first) * batch / took
            print(f"{stage.name} {step + 1}/{stage.steps}: loss {average:.4f}, {took:.0f} s, {speed:.0f}/s", flush=True)
        if rank == 0 and ((step + 1) % stage.save_every == 0 or step + 1 == stage.steps):
            partial = work / f"{stage.name}.partial"
            torch.save({"step": step + 1, **shared.state()}, partial)
            partial.replace(work / f"{stage.name}.checkpoint")


def read_checkpoint(file: Path) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """The running average of a stage's checkpoint, as models."""
    unet, text = new_unet().eval(), new_text_encoder().eval()
    average, start = torch.load(file, weights_only=True)["average"], 0
    for p in parameters(unet, text):
        p.data, start = average[start : start + p.numel()].view_as(p).clone(), start + p.numel()
    return unet, text


def train(
    pictures: Pictures,
    vae: AutoencoderKL,
    tokenizer_folder: Path,
    *,
    work: Path,
    stage: Stage,
    world: int,
    begin: tuple[UNet2DConditionModel, CLIPTextModel],
    variants: int,
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Train or go on training one stage from the models `begin`; gives the averaged models at its end."""
    checkpoint = work / f"{stage.name}.checkpoint"
    latents = encode(pictures, vae, stage.side, variants, work)
    count = sum(p.numel() for p in parameters(*begin))
    shared, first = parallel.SharedParameters(count, world), 0
    shared.load(parameters(*begin))
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        first = state.pop("step")
        shared.restore(state)
    if first < stage.steps:
        shown = [(pictures.concepts[i], pictures.styles[i]) for i in latents.which]
        parallel.run(world, _worker, shared, latents, shown, tokenizer_folder, stage, work, first)
    return read_checkpoint(checkpoint)
