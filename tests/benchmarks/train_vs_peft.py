"""Seconds a training step: lorakit's loop against a plain diffusers + PEFT loop, same model, caches, batch and rank.

python -m tests.benchmarks.train_vs_peft
"""

import statistics
import time

import torch
from peft import LoraConfig
from torch.nn import functional

from lorakit.config import TrainConfig
from lorakit.diffusion.loss import min_snr_weight
from lorakit.jobs.sample import load_model
from lorakit.models.load import load
from lorakit.modes import lora
from lorakit.training.cache import Cached
from lorakit.training.loop import Optimizer, Plan, train
from lorakit.training.objective import Source, objective

BATCH, STEPS, ROUNDS = 8, 12, 5


THREADS = torch.get_num_threads()


def ours() -> list[float]:
    components = load_model("tiny", "cpu", "float32", lambda text: None)
    means = [torch.randn(4, 16, 16) for _ in range(BATCH)]
    source = Source(
        "data", Cached(means, [torch.ones_like(m) * 0.1 for m in means], [], [""] * BATCH, [1] * BATCH), BATCH
    )
    trained = lora.begin(components, TrainConfig())
    descend = objective(components, [source], {"": torch.randn(32, 192)}, list(trained.parameters.values()), 0, 5.0)
    return [
        step.seconds for step in train(Optimizer(trained.parameters), descend, Plan(STEPS, 1e-4, "constant", 0, 1.0))
    ]


def theirs() -> list[float]:
    torch.set_num_threads(THREADS)
    components = load("tiny", torch.device("cpu"), torch.float32)
    unet = components.unet
    names = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=names, init_lora_weights="gaussian"))
    unet.train()
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-4)
    z, states, alphas, seconds = torch.randn(BATCH, 4, 16, 16), torch.randn(BATCH, 32, 192), components.alphas(), []
    for _ in range(STEPS):
        started = time.monotonic()
        noise, t = torch.randn_like(z), torch.randint(0, len(alphas), (BATCH,))
        a = alphas[t][:, None, None, None]
        predicted = unet(a.sqrt() * z + (1 - a).sqrt() * noise, t, states).sample
        wanted = a.sqrt() * noise - (1 - a).sqrt() * z
        error = functional.mse_loss(predicted, wanted, reduction="none").mean((1, 2, 3))
        (error * min_snr_weight(alphas[t], 5.0, "v_prediction")).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.monotonic() - started)
    return seconds


def main() -> None:
    rounds = [(statistics.median(ours()[2:]), statistics.median(theirs()[2:])) for _ in range(ROUNDS)]
    mine, other = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(
        f"lorakit {mine:.3f} s a step, diffusers+PEFT {other:.3f} s, ratio {mine / other:.2f} (batch {BATCH}, {ROUNDS} rounds)"
    )


if __name__ == "__main__":
    main()
