"""Pictures that are too small, enlarged by Swin2SR (Conde et al., 2022) through transformers."""

from collections.abc import Callable

import torch
from PIL import Image

from lorakit.models.fetch import folder_of, whole
from lorakit.runtime.device import pick_device, pick_dtype

SWIN2SR = "caidas/swin2SR-classical-sr-x2-64"


def load(name: str, device: str, dtype: str) -> Callable[[Image.Image, tuple[int, int]], Image.Image]:
    """A function that doubles a picture until it is as large as the size (width, height), and draws it at that."""
    folder = folder_of(name or SWIN2SR, "--upscale-model")
    where = pick_device(device)
    kind = pick_dtype(dtype, where)
    with whole(folder, "--upscale-model", "Swin2SR model") as folder:
        from transformers import Swin2SRForImageSuperResolution

        model = Swin2SRForImageSuperResolution.from_pretrained(folder, use_safetensors=True, dtype=kind)
        model = model.to(where).eval()
    window = model.config.window_size
    factor = model.config.upscale

    @torch.inference_mode()
    def once(picture: Image.Image) -> Image.Image:
        x = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        x = x.view(picture.height, picture.width, 3).permute(2, 0, 1)[None].to(where, kind) / 255
        extra = (-picture.width % window, -picture.height % window)
        x = torch.nn.functional.pad(x, (0, extra[0], 0, extra[1]), mode="replicate")
        y = model(x).reconstruction[0, :, : picture.height * factor, : picture.width * factor]
        pixels = (y.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        return Image.fromarray(pixels)

    def grow(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        while picture.width < size[0] or picture.height < size[1]:
            picture = once(picture)
        return picture.resize(size, Image.Resampling.LANCZOS)

    return grow
