"""diffusers' pipelines over the random models of tests/tiny.py, and what a LoRA file makes of their weights."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lorakit.adapter import Adapter
from lorakit.delta import Delta
from lorakit.deltas.dora import DoRA
from lorakit.deltas.low_rank import LowRank
from lorakit.formats.codec import Encoded
from lorakit.io import safetensors
from lorakit.targets import canonical
from tests.tiny import make

Weights = dict[str, torch.Tensor]


def pipeline(folder: Path, family: str) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    if not folder.exists():
        make(folder, family)
    parts = {
        "vae": AutoencoderKL.from_pretrained(folder / "vae"),
        "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        "unet": UNet2DConditionModel.from_pretrained(folder / "unet"),
        "scheduler": DDIMScheduler.from_pretrained(folder / "scheduler"),
    }
    if family == "sdxl":
        second = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2")
        return StableDiffusionXLPipeline(**parts, text_encoder_2=second, tokenizer_2=parts["tokenizer"])
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def components(pipe) -> list[str]:
    return [part for part in ("unet", "text_encoder", "text_encoder_2") if getattr(pipe, part, None) is not None]


def weights(model: torch.nn.Module, part: str) -> Weights:
    """By our names: those of linear modules and convolutions."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return {
        canonical(f"{part}.{path}"): module.weight.detach().clone()
        for path, module in model.named_modules()
        if isinstance(module, kinds)
    }


def base_of(pipe) -> Weights:
    return {name: w for part in components(pipe) for name, w in weights(getattr(pipe, part), part).items()}


def effect(pipe, file: Path, base: Weights) -> Weights:
    """What diffusers adds to each weight of the base for a file."""
    pipe.load_lora_weights(str(file))
    pipe.fuse_lora(components=components(pipe))
    fused: Weights = {}
    for part in components(pipe):
        for path, module in getattr(pipe, part).named_modules():
            name = canonical(f"{part}.{path.removesuffix('.base_layer')}")
            if name in base and isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                fused[name] = module.weight.detach()
    return {name: fused[name] - w for name, w in base.items()}


def random_delta(weight: torch.Tensor, rank: int, alpha: float, draw: torch.Generator, dora: bool = False) -> Delta:
    out, width, *kernel = weight.shape
    down = torch.randn(rank, width, *kernel, generator=draw)
    up = torch.randn(out, rank, *[1 for _ in kernel], generator=draw) * 0.1
    low = LowRank(down, up, alpha)
    return DoRA(low, 0.5 + torch.rand(out, 1, *[1 for _ in kernel], generator=draw)) if dora else low


def random_for(base: Weights, names, ranks=(4,), alphas=(4.0,), dora: bool = False) -> Adapter:
    draw = torch.Generator().manual_seed(0)
    return Adapter(
        modules={
            name: random_delta(base[name], ranks[i % len(ranks)], alphas[i % len(alphas)], draw, dora)
            for i, name in enumerate(names)
        }
    )


def wrong(wanted: Adapter, got: Weights, base: Weights, tolerance: float = 1e-4) -> list[str]:
    """Modules of the base whose change is not the wanted one: the delta where there is one, else none at all."""
    found = []
    for name, change in got.items():
        if name not in wanted.modules:
            found += [f"{name}: changed"] if change.abs().max() > 0 else []
            continue
        delta = torch.as_tensor(wanted.modules[name].delta(base[name]))
        error = float((change - delta.reshape(change.shape)).norm() / delta.norm())
        found += [f"{name}: off by {error:.1e}"] if not error < tolerance else []
    return found + [f"{name}: not in the model" for name in wanted.modules if name not in got]


def save(folder: Path, encoded: Encoded) -> Path:
    """As `convert` writes it: a folder's files, or one file."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in encoded.folder.items():
        (folder / path).parent.mkdir(exist_ok=True)
        if isinstance(content, str):
            (folder / path).write_text(content)
        else:
            safetensors.write(folder / path, *content)
    if encoded.folder:
        return folder
    safetensors.write(folder / "pytorch_lora_weights.safetensors", encoded.tensors, encoded.metadata)
    return folder / "pytorch_lora_weights.safetensors"
