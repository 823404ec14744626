"""Denoising: conditionings in, latents out. All drawing in lorakit goes through here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorakit.diffusion.noise import generator
from lorakit.models.conditioning import Conditioning
from lorakit.models.encode import to_pictures
from lorakit.models.load import Components, is_small
from lorakit.models.predict import predict
from lorakit.runtime.workers import cores, each
from lorakit.schedulers import SCHEDULERS


def make_scheduler(components: Components, name: str, steps: int) -> Any:
    """The diffusers scheduler of that name over the model's own noise schedule, set to `steps`."""
    import diffusers

    kind, settings = SCHEDULERS[name]
    keep = (
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "prediction_type",
        "steps_offset",
    )
    config = {key: components.scheduler_config[key] for key in keep if key in components.scheduler_config}
    if kind == "DDIMScheduler":
        config["clip_sample"] = False
    scheduler = getattr(diffusers, kind).from_config({**config, **settings})
    scheduler.set_timesteps(steps, device=components.device)
    return scheduler


@torch.inference_mode()
def denoise(
    components: Components,
    conditioning: Conditioning,
    negative: Conditioning,
    seeds: Sequence[int],
    *,
    size: tuple[int, int],
    steps: int,
    guidance: float,
    scheduler: str,
) -> Tensor:
    """Latents [b, c, h, w] in float32 of one batch.

    conditioning, negative of b pictures, sized; size (width, height) in pixels; picture i depends on seeds[i] and its
    conditioning alone. With guidance above 1 both halves go through the UNet in one forward (Ho and Salimans, 2022).
    """
    solver = make_scheduler(components, scheduler, steps)
    factor = components.vae_factor
    shape = (components.latent_channels, size[1] // factor, size[0] // factor)
    draws = [generator(seed, "sample") for seed in seeds]
    x = torch.stack([torch.randn(shape, generator=g) for g in draws]).to(components.device) * solver.init_noise_sigma
    guided = guidance > 1
    told = (Conditioning.cat([negative, conditioning]) if guided else conditioning).sized(size)
    extra = {"generator": draws} if scheduler in ("euler-a", "lcm") else {}
    for t in solver.timesteps:
        scaled = solver.scale_model_input(x, t)
        predicted = predict(components, torch.cat([scaled, scaled]) if guided else scaled, t, told).float()
        if guided:
            without, given = predicted.chunk(2)
            predicted = without + guidance * (given - without)
        x = solver.step(predicted, t, x, **extra).prev_sample
    return x


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn, the same for all of a call."""

    size: tuple[int, int]
    steps: int = 30
    guidance: float = 7.5
    scheduler: str = "dpm++"
    batch_size: int = 8


def draw(
    components: Components, told: Sequence[Conditioning], negative: Conditioning, seeds: Sequence[int], how: Drawing
) -> Iterator[np.ndarray]:
    """One uint8 picture [h, w, 3] for each seed and its conditioning of one picture, in order.

    On the CPU the bytes of a picture depend on nothing but its seed and conditioning. A sum's last bits depend on the shape
    of its operands and on the number of threads, so pictures go through alone there, or, with a small model, always in
    twos on one thread, a pair on each core; an odd one is drawn with a twin that is thrown away. On other devices
    `batch_size` go through together.
    """

    def run(chosen: Sequence[int]) -> np.ndarray:
        latents = denoise(
            components, Conditioning.cat([told[i] for i in chosen]), negative.expand(len(chosen)),
            [seeds[i] for i in chosen], size=how.size, steps=how.steps, guidance=how.guidance, scheduler=how.scheduler,
        )  # fmt: skip
        return to_pictures(components, latents)

    if components.device.type != "cpu":
        for start in range(0, len(seeds), how.batch_size):
            yield from run(range(len(seeds))[start : start + how.batch_size])
        return
    if not is_small(components):
        yield from (run([i])[0] for i in range(len(seeds)))
        return
    last = len(seeds) - 1
    pairs = ([i, min(i + 1, last)] for i in range(0, len(seeds), 2))
    twos = each(run, pairs, min(cores(), max(1, how.batch_size // 2)))
    yield from islice((picture for two in twos for picture in two), len(seeds))
