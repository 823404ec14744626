"""Where in a picture are these words? CLIPSeg (Lüddecke and Ecker, 2022) through transformers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from lorakit.errors import UsageError
from lorakit.models.fetch import folder_of, whole
from lorakit.runtime.device import pick_device, pick_dtype


def load(name: str, prompt: str, device: str, dtype: str) -> Callable[[Sequence[Image.Image]], list[Image.Image]]:
    """Pictures to grey masks of their sizes: the probability of the prompt, stretched so that its top is white.

    Its own top and bottom differ from picture to picture, so that an unsure answer is still a usable mask; where the
    words are nowhere (top below 5 %), all of the picture counts.
    """
    if not prompt:
        raise UsageError('--mask-model needs --mask-prompt, such as --mask-prompt "a dog"')
    folder = folder_of(name, "--mask-model")
    where = pick_device(device)
    kind = pick_dtype(dtype, where)
    with whole(folder, "--mask-model", "CLIPSeg model") as folder:
        from transformers import AutoProcessor, CLIPSegForImageSegmentation

        processor: Any = AutoProcessor.from_pretrained(folder)
        model = CLIPSegForImageSegmentation.from_pretrained(folder, use_safetensors=True, dtype=kind).to(where).eval()

    @torch.inference_mode()
    def make(pictures: Sequence[Image.Image]) -> list[Image.Image]:
        inputs = processor(
            text=[prompt] * len(pictures), images=list(pictures), padding=True, truncation=True, return_tensors="pt"
        )
        inputs = {k: v.to(where, kind if v.is_floating_point() else None) for k, v in inputs.items()}
        logits = model(**inputs).logits.float()
        shares = logits.reshape(len(pictures), *logits.shape[-2:]).sigmoid().cpu()
        return [_mask(share, picture.size) for share, picture in zip(shares, pictures, strict=True)]

    return make


def _mask(share: torch.Tensor, size: tuple[int, int]) -> Image.Image:
    """share [h, w] in 0..1 to a mask of `size` (width, height)."""
    top = float(share.max())
    if top < 0.05:
        return Image.new("L", size, 255)
    grey = (share / top * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)
