"""CPU seconds of a training step with adapters over those of the frozen network, and PEFT's for comparison.

The network has Stable Diffusion 1's shapes, reduced: 320 channels, one layer a block, cross-attention over 77 x 768.
"Frozen" is a forward pass and the backward pass down to the first adapted module's input: what any adapter pays.
All ways run in turn in one process, on one thread; ratios are medians over the rounds.

python -m tests.benchmarks.adapter_overhead [--rank 8] [--target attention] [--size 32] [--rounds 7] [--dtype float32]
"""

import argparse
import copy
import statistics
import time

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

from lorakit.diffusion.noise import normal
from lorakit.registry import TRAINABLE
from lorakit.training.variants import attach, targets


def network(dtype: torch.dtype) -> UNet2DConditionModel:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=32,
        layers_per_block=1,
        block_out_channels=(320, 640),
        cross_attention_dim=768,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    return unet.requires_grad_(False).to(dtype)


class Way:
    """One way of having adapters: what a step computes gradients of."""

    def __init__(self, unet: UNet2DConditionModel, wanted: list[torch.Tensor]) -> None:
        self.unet, self.wanted = unet, wanted

    def __call__(self, x: torch.Tensor, states: torch.Tensor) -> float:
        started = time.process_time()
        said = self.unet(x, torch.full((len(x),), 500), states).sample
        torch.autograd.grad(said.float().square().mean(), self.wanted)
        return time.process_time() - started


class Frozen(Way):
    """No adapter: gradients flow down to the first attention's input."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__(unet, [])

        def begin(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            first = arguments[0].detach().requires_grad_(True)
            self.wanted = [first]
            return (first, *arguments[1:])

        unet.down_blocks[0].attentions[0].register_forward_pre_hook(begin)


def peft(unet: UNet2DConditionModel, paths: list[str], rank: int) -> Way:
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=paths))
    return Way(unet, [p for p in unet.parameters() if p.requires_grad])


def ours(unet: UNet2DConditionModel, target: str, rank: int, variant: str) -> Way:
    found = attach(
        targets({"unet": unet}, target, [], rank, None), TRAINABLE[variant], lambda shape, name: normal(shape, name)
    )
    return Way(unet, list(found.parameters.values()))


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rank", type=int, default=8)
    options.add_argument("--target", default="attention")
    options.add_argument("--size", type=int, default=32)
    options.add_argument("--batch", type=int, default=1)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--dtype", default="float32")
    given = options.parse_args()
    torch.set_num_threads(1)
    dtype = getattr(torch, given.dtype)
    base = network(dtype)
    paths = [t.name.removeprefix("unet.") for t in targets({"unet": base}, given.target, [], given.rank, None)]
    ways: dict[str, Way] = {"frozen": Frozen(copy.deepcopy(base)), "frozen again": Frozen(copy.deepcopy(base))}
    ways |= {name: ours(copy.deepcopy(base), given.target, given.rank, name) for name in TRAINABLE.names()}
    ways["PEFT's lora"] = peft(copy.deepcopy(base), paths, given.rank)
    x = normal((given.batch, 4, given.size, given.size), "x").to(dtype)
    states = normal((given.batch, 77, 768), "states").to(dtype)
    rounds = [{name: way(x, states) for name, way in ways.items()} for _ in range(given.rounds + 1)][1:]
    print(
        f"{len(paths)} modules, rank {given.rank}, latents {given.size}x{given.size}, batch {given.batch}, {given.dtype}, {given.rounds} rounds"
    )
    for name in ways:
        ratios = [r[name] / r["frozen"] for r in rounds]
        print(
            f"{name:14} {statistics.median(r[name] for r in rounds):7.3f} s  {statistics.median(ratios):5.3f} of frozen ({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
