"""Seconds a training step: lorakit's loop against diffusers' own example with PEFT, on the built-in model and on a reduced
SD1 (half the channels of UNet, VAE and text encoder): with the same caches, and as the example is, without any.

Each way runs in a process of its own, as its users have it, and they take their steps in turn. Printed are medians, the
medians of the ratios, and how long lorakit's steps waited for their input.

python -m tests.benchmarks.train [--rounds 8]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch

STEPS = 5  # in a turn
CAPTION = "a photo number {} of a thing on a table"
Step = Callable[[], float]  # one step; seconds it waited for its input


def ours(name: str, batch: int, dtype: str = "float32") -> Step:
    """The loop with all that `lorakit train` has in it: drawing of noise, captions, clipping, the optimizer."""
    from lorakit.config import TrainConfig
    from lorakit.drawing.session import load_model
    from lorakit.modes import lora
    from lorakit.runtime.heap import keep_freed_memory
    from lorakit.runtime.world import World
    from lorakit.training import loop, optimizers
    from lorakit.training.objective import Objective
    from lorakit.training.precision import precision
    from lorakit.training.samples import TrainingSource
    from lorakit.training.texts import Texts
    from tests.support.cached import cached

    components = load_model(name, "cpu", dtype, note=lambda text: None)
    side = components.size // components.vae_factor
    means = [torch.randn(4, side, side) for _ in range(4 * batch)]
    count = len(means)
    captions = [CAPTION.format(i) for i in range(count)]
    config = TrainConfig(batch_size=batch, steps=100_000, lr=1e-4, lr_schedule="constant").suited()
    trained = lora.begin(components, config)
    source = TrainingSource(
        name="data", cached=cached(means, spread=0.1), captions=[(caption,) for caption in captions], batch=batch
    )
    texts = Texts(components)
    texts.fill(captions)
    how = precision(dtype, components.device, whole=False)
    objective = Objective(components, [source], texts, config, World(), how, attached=trained.attached)
    optimizer = loop.optimizer_of(trained.groups, lambda inner: optimizers.make("adamw", inner, 0.0))
    keep_freed_memory()
    steps = loop.train(optimizer, trained.groups, objective, config.total, max_norm=1.0)
    return lambda: next(steps).waited


def theirs(name: str, batch: int, cached: bool) -> Step:
    """diffusers' train_text_to_image_lora with --snr_gamma 5 --max_grad_norm 1, in float32, as its defaults are.

    Without caches: pictures are read from files, which are as small as the model's, and captions tokenised as they are
    asked for, in the main process; VAE and text encoder at each step.
    """
    import numpy as np
    from peft import LoraConfig
    from PIL import Image
    from torch.nn import functional
    from torchvision import transforms

    from lorakit.diffusion.loss import min_snr_weight
    from lorakit.diffusion.process import Alphas
    from lorakit.models.load import load

    components = load(name, torch.device("cpu"), torch.float32)
    unet, vae, text, side = components.unet, components.vae, components.text_encoder, components.size
    unet.add_adapter(
        LoraConfig(r=8, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights="gaussian")
    )
    unet.train()
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-4)
    folder = tempfile.TemporaryDirectory()
    files = [Path(folder.name) / f"{i}.jpg" for i in range(4 * batch)]
    for i, file in enumerate(files):
        noise = np.random.default_rng(i).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(file, quality=90)
    shape = transforms.Compose(
        [
            transforms.Resize(side),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )

    def tokens(captions: list[str]) -> torch.Tensor:
        words = components.tokenizer
        length = words.model_max_length
        return words(captions, max_length=length, padding="max_length", truncation=True, return_tensors="pt").input_ids

    class Pictures(torch.utils.data.Dataset):
        folder_is_kept = folder

        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
            with Image.open(files[i]) as image:
                return shape(image.convert("RGB")), tokens([CAPTION.format(i)])[0]

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        loader = torch.utils.data.DataLoader(Pictures(), batch, shuffle=True, num_workers=0)
        while True:
            yield from loader

    process = components.process
    assert isinstance(process, Alphas)
    read, alphas, kind = batches(), process.alphas, process.prediction
    latent, factor = side // components.vae_factor, vae.config.scaling_factor
    kept = torch.randn(batch, 4, latent, latent), text(tokens([CAPTION.format(i) for i in range(batch)]))[0].detach()

    def one() -> float:
        z, states = kept
        if not cached:
            pictures, ids = next(read)
            with torch.no_grad():
                z = vae.encode(pictures).latent_dist.sample() * factor
                states = text(ids, return_dict=False)[0]
        noise, t = torch.randn_like(z), torch.randint(0, len(alphas), (batch,))
        a = alphas[t][:, None, None, None]
        predicted = unet(a.sqrt() * z + (1 - a).sqrt() * noise, t, states, return_dict=False)[0]
        wanted = a.sqrt() * noise - (1 - a).sqrt() * z if kind == "v_prediction" else noise
        error = functional.mse_loss(predicted, wanted, reduction="none").mean((1, 2, 3))
        (error * min_snr_weight(alphas[t], 5.0, kind)).mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return 0.0

    return one


WAYS: dict[str, Callable[[str, int], Step]] = {
    "lorakit": ours,
    "diffusers + PEFT, cached": lambda name, batch: theirs(name, batch, True),
    "diffusers + PEFT, as it is": lambda name, batch: theirs(name, batch, False),
}


if torch.ops.mkldnn._is_mkldnn_bf16_supported():  # elsewhere it takes many times as long
    WAYS["lorakit in bfloat16"] = lambda name, batch: ours(name, batch, "bfloat16")


def work(way: str, name: str, batch: int, line: Connection) -> None:
    """Take steps when asked to; their wall seconds, CPU seconds and seconds of waiting for input."""
    one = WAYS[way](name, batch)
    while line.recv():
        taken = []
        for _ in range(STEPS):
            started, spent = time.monotonic(), time.process_time()
            waited = one()
            taken.append((time.monotonic() - started, time.process_time() - spent, waited))
        line.send(taken)


def compare(name: str, batch: int, rounds: int) -> None:
    context = get_context("spawn")
    lines, workers = {}, []
    for way in WAYS:
        lines[way], theirs_end = context.Pipe()
        workers.append(context.Process(target=work, args=(way, name, batch, theirs_end)))
        workers[-1].start()
    taken: dict[str, list[list[tuple[float, float, float]]]] = {way: [] for way in WAYS}
    for turn in range(rounds + 1):
        for way, line in lines.items():
            line.send(True)
            found = line.recv()
            if turn:  # the first one warms up
                taken[way].append(found)
    for line, worker in zip(lines.values(), workers, strict=True):
        line.send(False)
        worker.join()
    for way, turns in taken.items():
        wall, spent = ([statistics.median(step[i] for step in turn) for turn in turns] for i in (0, 1))
        ratios = [
            statistics.median(w / w0 for w, w0 in zip(mine, base, strict=True))
            for mine, base in (
                (wall, [statistics.median(step[0] for step in turn) for turn in taken["lorakit"]]),
                (spent, [statistics.median(step[1] for step in turn) for turn in taken["lorakit"]]),
            )
        ]
        print(
            f"  {way}: {statistics.median(wall):.3f} s a step, {ratios[0]:.2f} of lorakit's (CPU seconds: {ratios[1]:.2f})"
        )
    steps = [step for turn in taken["lorakit"] for step in turn]
    share = sum(step[2] for step in steps) / sum(step[0] for step in steps)
    print(f"  lorakit waited for its input for {share:.2%} of the time", flush=True)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument("--only", choices=("tiny", "sd1"))
    given = options.parse_args()
    if given.only != "sd1":
        print(f"the built-in model, batch 8, rank 8, {torch.get_num_threads()} threads:")
        compare("tiny", 8, given.rounds)
    if given.only != "tiny":
        from tests.tiny import reduced

        with tempfile.TemporaryDirectory() as folder:
            print("an SD1 of half the channels, 256x256 pictures, batch 2:")
            compare(str(reduced(Path(folder) / "sd1")), 2, max(1, given.rounds // 4))


if __name__ == "__main__":
    main()
