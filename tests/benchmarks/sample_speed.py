"""Seconds a picture, after start-up: lorakit's drawing against diffusers' pipeline. 8 pictures, 20 steps, guidance 4.

python -m tests.benchmarks.sample_speed
"""

import statistics
import time

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

from lorakit.models.encode import conditioning_of
from lorakit.models.load import load
from lorakit.models.places import folder_of
from lorakit.models.sample import Drawing, draw

COUNT, STEPS, ROUNDS = 8, 20, 3


def main() -> None:
    components = load("tiny", torch.device("cpu"), torch.float32)
    pipe = StableDiffusionPipeline.from_pretrained(folder_of("tiny"), torch_dtype=torch.float32, safety_checker=None)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    told, _ = conditioning_of(components, ["a 3d emoji of a cat", ""])
    rounds, threads = [], torch.get_num_threads()
    for _ in range(ROUNDS):
        torch.set_num_threads(1)
        started = time.monotonic()
        list(
            draw(
                components,
                [told[0]] * COUNT,
                told[1],
                list(range(COUNT)),
                Drawing(size=(64, 64), steps=STEPS, guidance=4.0, scheduler="dpm++"),
            )
        )
        between = time.monotonic()
        torch.set_num_threads(threads)
        with torch.no_grad():
            pipe(["a 3d emoji of a cat"] * COUNT, num_inference_steps=STEPS, guidance_scale=4.0)
        rounds.append((between - started, time.monotonic() - between))
    mine, other = (statistics.median(column) / COUNT for column in zip(*rounds, strict=True))
    print(f"lorakit {mine:.3f} s a picture, diffusers {other:.3f} s, ratio {mine / other:.2f} ({ROUNDS} rounds)")


if __name__ == "__main__":
    main()
