"""What adapters cost a denoising step, side by side with diffusers + PEFT, in CPU seconds on one thread.

python -m tests.benchmarks.sample [sd1|tiny]

Three rank-32 adapters on the attention whose weights change at every step, and one constant one, against no adapter. `sd1` is a UNet
of Stable Diffusion 1.5's shapes with random weights, at 256 px, batch 1. The rounds alternate; the median of the ratios
to no adapter in the same round is printed, and the spread.
"""

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

from lorakit.adapter import Adapter
from lorakit.deltas.low_rank import LowRank
from lorakit.models.config import folder_of
from lorakit.models.gated import Stack

RANK = 32


def make_unet(kind: str) -> tuple[UNet2DConditionModel, int, int]:
    """(UNet, latent side, width of the text states)."""
    if kind == "tiny":
        return UNet2DConditionModel.from_pretrained(folder_of("tiny") / "unet").eval().requires_grad_(False), 16, 192
    torch.manual_seed(0)
    return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8).eval().requires_grad_(False), 32, 768


def random_adapter(unet: UNet2DConditionModel, seed: int) -> Adapter:
    draw = torch.Generator().manual_seed(seed)
    modules = {}
    for name, module in unet.named_modules():
        if ".attn" in name and isinstance(module, torch.nn.Linear):
            out, width = module.weight.shape
            down, up = torch.randn(RANK, width, generator=draw), torch.randn(out, RANK, generator=draw) * 0.01
            modules[f"unet.{name}"] = LowRank(down, up, float(RANK))
    return Adapter(modules)


def timed(
    unet: Any, x: torch.Tensor, states: torch.Tensor, steps: int, before: Callable[[int], AbstractContextManager]
) -> float:
    """CPU seconds a step; before(i) sets the weights of step i, and counts."""
    started = time.process_time()
    for i in range(steps):
        with torch.inference_mode(), before(i):
            unet(x, 500, states)
    return (time.process_time() - started) / steps


def ratios(
    plain: Callable[[], float], three: Callable[[], float], one: Callable[[], float], rounds: int
) -> list[tuple[float, ...]]:
    """(seconds without, three that change and one constant in parts of it) of each round, after one that is thrown away."""
    rows = []
    for _ in range(rounds + 1):
        base = plain()
        rows.append((base, three() / base, one() / base))
    return rows[1:]


def main() -> None:
    kind = sys.argv[1] if len(sys.argv) > 1 else "tiny"
    torch.set_num_threads(1)
    unet, side, width = make_unet(kind)
    batch, tokens, steps, rounds = (1, 77, 3, 2) if kind == "sd1" else (4, 32, 6, 5)
    x, states = torch.randn(batch, 4, side, side), torch.randn(batch, tokens, width)
    changing = [tuple(0.2 + 0.1 * ((i + k) % steps) for k in range(3)) for i in range(steps)]

    stack, adapters = Stack({"unet": unet}), [random_adapter(unet, seed) for seed in range(3)]
    for i, adapter in enumerate(adapters):
        stack.add(i, adapter, lambda name: 1.0, "random")
    stack.ready()
    ours = ratios(
        lambda: timed(unet, x, states, steps, lambda i: stack.gates.at((0.0,) * 3)),
        lambda: timed(unet, x, states, steps, lambda i: stack.gates.at(changing[i])),
        lambda: timed(unet, x, states, steps, lambda i: stack.gates.at((1.0, 0.0, 0.0), 30)),
        rounds,
    )
    stack.remove()

    names = ["a0", "a1", "a2"]
    for name in names:
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets, init_lora_weights=False)
        unet.add_adapter(config, name)

    def theirs(step: int, many: bool) -> AbstractContextManager:
        if many:
            unet.set_adapters(names, list(changing[step]))
        return nullcontext()

    def alone() -> float:
        unet.disable_adapters()
        found = timed(unet, x, states, steps, lambda i: nullcontext())
        unet.enable_adapters()
        return found

    def constant() -> float:
        unet.set_adapters(["a0"], [1.0])
        return timed(unet, x, states, steps, lambda i: theirs(i, False))

    peft = ratios(alone, lambda: timed(unet, x, states, steps, lambda i: theirs(i, True)), constant, rounds)
    for who, found in (("lorakit", ours), ("diffusers + PEFT", peft)):
        columns = list(zip(*found, strict=True))
        base, three, one = (statistics.median(column) for column in columns)
        spread = [f"{min(column):.3f} to {max(column):.3f}" for column in columns[1:]]
        print(
            f"{kind}, {who}: {base:.3f} CPU s a step without; three that change {three:.3f} ({spread[0]}), one constant "
            f"{one:.3f} ({spread[1]}); {rounds} rounds of {steps} steps"
        )


if __name__ == "__main__":
    main()
