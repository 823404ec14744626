"""The autoencoder: 64x64 pictures to 16x16 latents of four channels, trained on crops first and whole pictures last."""

import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from lorakit.models.tiny.build import parallel
from lorakit.models.tiny.build.render import Pictures, place_plain, premultiplied, random_backgrounds
from lorakit.models.tiny.build.sources import TRAIN_STYLES


@dataclass(frozen=True, kw_only=True)
class VaeRecipe:
    steps: int = 8000
    crop_share: float = 0.8  # of the steps, on 32x32 crops: four times cheaper, and texture is local
    crop_batch: int = 16  # a process
    whole_batch: int = 6
    rate: float = 1e-3
    kl: float = 1e-4
    save_every: int = 500


def new_vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=64,
    )


def pool(pictures: Pictures, which: list[int]) -> Tensor:
    """Premultiplied uint8 [n, 4, 64, 64] of every picture at two scales, so that no stroke width is learnt by heart."""
    parts = []
    for start in range(0, len(which), 256):
        rgba = premultiplied(pictures, which[start : start + 256])
        small = functional.pad(functional.interpolate(rgba, (52, 52), mode="area"), (6, 6, 6, 6))
        parts += [(functional.avg_pool2d(rgba, 2) * 255).round().byte(), (small * 255).round().byte()]
    return torch.cat(parts)


def _draw(pool: Tensor, count: int, size: int, draw: random.Random) -> Tensor:
    """Training pictures [count, 3, size, size] in -1..1; a fifth lie on another picture, for textures beyond plain ones."""
    rgba = torch.stack([pool[draw.randrange(len(pool))] for _ in range(count)]).float() / 255
    _, plain = random_backgrounds(count, 0.35, draw)
    under = plain[:, :, None, None].expand(-1, -1, 64, 64).clone()
    for i in range(count):
        if draw.random() < 0.2:
            other = pool[draw.randrange(len(pool))].float() / 255
            under[i] = torch.roll(other[:3] + (1 - other[3:]) * under[i], draw.randrange(64), 2)
    x = rgba[:, :3] + (1 - rgba[:, 3:]) * under
    if size < 64:
        corners = [(draw.randint(4, 60 - size), draw.randint(4, 60 - size)) for _ in range(count)]
        x = torch.stack([x[i, :, a : a + size, b : b + size] for i, (a, b) in enumerate(corners)])
    if draw.random() < 0.5:
        x = x.flip(3)
    if draw.random() < 0.25:  # colours beyond the emoji palette
        x = x[:, draw.sample(range(3), 3)]
    return x * 2 - 1


def loss(vae: AutoencoderKL, x: Tensor, kl: float) -> tuple[Tensor, Tensor]:
    """Reconstruction (absolute, squared, gradients, and colours at a quarter of the size) and KL; and the mean square."""
    with torch.autocast(x.device.type, torch.bfloat16):
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
    error = y.float() - x
    low = functional.avg_pool2d(error, 4)
    edges = error.diff(dim=3).abs().mean() + error.diff(dim=2).abs().mean()
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    square = error.square().mean()
    total = 0.5 * error.abs().mean() + 3 * square + 0.5 * edges + low.abs().mean() + 4 * low.square().mean()
    return total + kl * divergence, square.detach()


@torch.no_grad()
def psnr(vae: AutoencoderKL, x: Tensor) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB of [n, 3, h, w] through the latents' mode."""
    values = []
    for part in x.split(32):
        y = vae.decode(vae.encode(part).latent_dist.mode()).sample.clamp(-1, 1)
        values.append(-10 * torch.log10(((y - part) / 2).square().mean((1, 2, 3))))
    return float(torch.cat(values).mean())


def _worker(
    rank: int, shared: parallel.SharedParameters, pool: Tensor, probe: Tensor, recipe: VaeRecipe, work: Path, first: int
) -> None:
    torch.set_num_threads(1)
    vae = new_vae().train()
    shared.attach(vae.parameters(), rank)
    curve, started = parallel.RateCurve(recipe.rate, recipe.steps), time.monotonic()
    for step in range(first, recipe.steps):
        draw = random.Random(f"{step}/{rank}")
        torch.manual_seed(step * 64 + rank)
        crops = step < recipe.crop_share * recipe.steps
        x = _draw(pool, recipe.crop_batch if crops else recipe.whole_batch, 32 if crops else 64, draw)
        total, square = loss(vae, x, recipe.kl)
        total.backward()
        shared.loss[rank] = square
        shared.step(rank, step, curve(step), decay=1e-4, ema=0.998)
        if rank == 0 and ((step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps):
            torch.save({"step": step + 1, **shared.state()}, work / "vae.partial")
            (work / "vae.partial").replace(work / "vae.checkpoint")
            judge = new_vae().eval()
            shared.read_average(judge.parameters())
            took = time.monotonic() - started
            print(f"vae {step + 1}: held-out {psnr(judge, probe):.2f} dB, {took:.0f} s", flush=True)


@torch.no_grad()
def normalise(vae: AutoencoderKL, x: Tensor) -> None:
    """Fold a shift and scale of each latent channel into the 1x1 convolutions around the latents, so that channels
    have mean 0 and spread 1 and Stable Diffusion's single scaling factor is 1: exact, and no new config key."""
    z = torch.cat([vae.encode(part).latent_dist.mode() for part in x.split(64)])
    mean, spread = z.mean((0, 2, 3)), z.std((0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    quant.weight[:channels] /= spread[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / spread
    quant.bias[channels:] -= 2 * spread.log()  # the other half is the log variance
    post.bias += (post.weight * mean[None, :, None, None]).sum((1, 2, 3))
    post.weight *= spread[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0)


def train(pictures: Pictures, work: Path, recipe: VaeRecipe, world: int, start: Path | None) -> Path:
    """Train or go on training; gives the folder of the finished autoencoder."""
    out = work / "vae"
    if (out / "config.json").is_file():
        return out
    vae = AutoencoderKL.from_pretrained(start, torch_dtype=torch.float32) if start else new_vae()
    which = pictures.where(styles=TRAIN_STYLES, held_out=False)
    probe = place_plain(pictures, pictures.where(styles=TRAIN_STYLES, held_out=True))
    shared = parallel.SharedParameters(sum(p.numel() for p in vae.parameters()), world)
    shared.load(vae.parameters())
    first = 0
    if (checkpoint := work / "vae.checkpoint").is_file():
        state = torch.load(checkpoint, weights_only=True)
        first = state.pop("step")
        shared.restore(state)
    training = pool(pictures, which).share_memory_()
    parallel.run(world, _worker, shared, training, probe[::3], recipe, work, first)
    shared.read_average(vae.parameters())
    draw = random.Random(0)
    normalise(vae.eval(), torch.cat([_draw(training, 64, 64, draw) for _ in range(8)]))
    print(f"vae: held-out {psnr(vae, probe):.2f} dB", flush=True)
    vae.save_pretrained(work / "vae.partial.d")
    (work / "vae.partial.d").rename(out)
    return out
