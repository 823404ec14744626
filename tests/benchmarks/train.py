"""Seconds a training step: lorakit's loop against a plain diffusers + PEFT loop, on the built-in model and on a reduced
SD1; the peer with the same caches and without any; and what the adapter costs over the frozen network.

python -m tests.benchmarks.train
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig
from torch.nn import functional

from lorakit.config import TrainConfig
from lorakit.diffusion.loss import min_snr_weight
from lorakit.models.load import Components, is_small, load
from lorakit.modes import lora
from lorakit.runtime.world import World
from lorakit.training import loop, optimizers
from lorakit.training.cache import Cached
from lorakit.training.objective import Objective
from lorakit.training.precision import precision
from lorakit.training.samples import Source
from lorakit.training.texts import Texts
from tests.tiny import reduced

STEPS, ROUNDS = 10, 5
THREADS = torch.get_num_threads()


def ours(components: Components, batch: int) -> Callable[[], float]:
    """Each call takes one step; its seconds, drawing of noise and captions included."""
    side = components.size // components.vae_factor
    means = [torch.randn(4, side, side) for _ in range(batch)]
    keys = [str(i) for i in range(batch)]
    cached = Cached(means, [torch.ones_like(m) * 0.1 for m in means], [], [""] * batch, [1] * batch, keys)
    config = TrainConfig(batch_size=batch, steps=1000, lr=1e-4, lr_schedule="constant").suited()
    trained = lora.begin(components, config)
    source = Source("data", cached, [(f"a photo {i}",) for i in range(batch)], batch)
    texts = Texts(components)
    texts.fill([f"a photo {i}" for i in range(batch)])
    how = precision("float32", components.device, whole=False)
    objective = Objective(components, [source], texts, config, World(), how, attached=trained.attached)
    optimizer = loop.optimizer_of(trained.groups, lambda inner: optimizers.make("adamw", inner, 0.0))
    steps = loop.train(optimizer, trained.groups, objective, 1000, max_norm=1.0)

    def one() -> float:
        if is_small(components):
            torch.set_num_threads(1)
        return next(steps).seconds

    return one


def theirs(components: Components, batch: int, cached: bool) -> Callable[[], float]:
    """The loop of diffusers' train_text_to_image_lora, the same loss; without caches it encodes pictures and captions."""
    unet, vae, text, side = components.unet, components.vae, components.text_encoder, components.size
    unet.add_adapter(
        LoraConfig(r=8, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights="gaussian")
    )
    unet.train()
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-4)
    factor, kind = components.vae_factor, components.prediction_type
    pictures = torch.randn(batch, 3, side, side).clamp(-1, 1)
    ids = components.tokenizer(["a photo"] * batch, padding="max_length", return_tensors="pt").input_ids
    kept = torch.randn(batch, 4, side // factor, side // factor), text(ids)[0].detach()
    alphas = components.alphas()

    def one() -> float:
        torch.set_num_threads(THREADS)
        started = time.monotonic()
        z, states = kept
        if not cached:
            with torch.no_grad():
                z, states = vae.encode(pictures).latent_dist.sample() * 0.18215, text(ids)[0]
        noise, t = torch.randn_like(z), torch.randint(0, len(alphas), (batch,))
        a = alphas[t][:, None, None, None]
        predicted = unet(a.sqrt() * z + (1 - a).sqrt() * noise, t, states).sample
        wanted = a.sqrt() * noise - (1 - a).sqrt() * z if kind == "v_prediction" else noise
        error = functional.mse_loss(predicted, wanted, reduction="none").mean((1, 2, 3))
        (error * min_snr_weight(alphas[t], 5.0, kind)).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return time.monotonic() - started

    return one


def compare(name: str, batch: int) -> None:
    def fresh() -> Components:
        return load(name, torch.device("cpu"), torch.float32)

    runs = {
        "lorakit": ours(fresh(), batch),
        "diffusers + PEFT, cached": theirs(fresh(), batch, True),
        "diffusers + PEFT, uncached": theirs(fresh(), batch, False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for one in runs.values():
        one(), one()
    for _ in range(ROUNDS):
        for label, one in runs.items():
            seconds[label] += [one() for _ in range(STEPS)]
    medians = {label: statistics.median(values) for label, values in seconds.items()}
    for label, value in medians.items():
        print(f"  {label}: {value:.3f} s a step, {value / medians['lorakit']:.2f} of lorakit's")


def main() -> None:
    print(f"the built-in model, batch 8, rank 8, {THREADS} threads:")
    compare("tiny", 8)
    with tempfile.TemporaryDirectory() as folder:
        print("a reduced SD1 (channels 160 to 640, 32x32 latents), batch 2:")
        compare(str(reduced(Path(folder) / "sd1")), 2)


if __name__ == "__main__":
    main()
