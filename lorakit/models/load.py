"""A base model by name: built in, a folder, or a hub repository."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorakit.errors import InputError, UsageError
from lorakit.models.config import folder_of


@dataclass
class Components:
    """A Stable Diffusion model taken apart. `size` is the side in pixels it was made for."""

    name: str
    folder: Path
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler_config: dict[str, Any]
    device: torch.device
    dtype: torch.dtype

    @property
    def vae_factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def size(self) -> int:
        return self.unet.config.sample_size * self.vae_factor

    @property
    def multiple(self) -> int:
        """Sides of pictures are multiples of this many pixels."""
        return self.vae_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def prediction_type(self) -> str:
        return self.scheduler_config.get("prediction_type", "epsilon")

    def alphas(self) -> torch.Tensor:
        """Cumulative alphas of the training noise schedule, [timesteps], float32, on the CPU."""
        from diffusers import DDIMScheduler

        return DDIMScheduler.from_config(self.scheduler_config).alphas_cumprod


def is_small(components: Components) -> bool:
    """A model whose operators are too short for threads of their own: on a CPU it works on one thread a piece."""
    return components.device.type == "cpu" and sum(p.numel() for p in components.unet.parameters()) < 50e6


def quiet_libraries() -> None:
    """Warnings and bars of the libraries would mix with ours."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def load(name: str, device: torch.device, dtype: torch.dtype) -> Components:
    """All parts in `dtype` on `device`, in evaluation mode, without gradients."""
    folder = folder_of(name)
    if (folder / "text_encoder_2").exists():
        raise UsageError(f"--model {name}: SDXL models are not built yet in this version")
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    quiet_libraries()
    try:
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=dtype)
        vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=dtype)
        text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype)
        tokenizer = _tokenizer(folder / "tokenizer", CLIPTokenizer, text.config.max_position_embeddings)
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} is not a whole Stable Diffusion model: {str(error).splitlines()[0]}") from error
    for part in (unet, vae, text):
        part.to(device).eval().requires_grad_(False)
    return Components(name, folder, unet, vae, text, tokenizer, scheduler, device, dtype)


def _tokenizer(folder: Path, kind: Any, length: int) -> Any:
    if (folder / "vocab.json").is_file():
        return kind(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=length)
    return kind.from_pretrained(folder)
