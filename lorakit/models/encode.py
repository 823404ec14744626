"""Pictures to latents and back, prompts to text states."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lorakit.errors import NumericError
from lorakit.models.load import Components, is_small
from lorakit.runtime.workers import cores, each


@torch.no_grad()
def text_states(components: Components, prompts: Sequence[str]) -> tuple[Tensor, list[str]]:
    """States [b, tokens, d] on the device, and the prompts that were longer than the model reads."""
    tokenizer = components.tokenizer
    tokens = tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
    full = [len(ids) for ids in tokenizer(list(prompts)).input_ids]
    cut = [prompt for prompt, n in zip(prompts, full, strict=True) if n > tokenizer.model_max_length]

    # One prompt at a time: a state must not depend on its neighbours in the batch, to the bit.
    @torch.no_grad()
    def encode(row: Tensor) -> Tensor:
        return components.text_encoder(row[None].to(components.device))[0]

    states = each(encode, tokens, cores()) if is_small(components) else map(encode, tokens)
    return torch.cat(list(states)), cut


def to_tensor(picture: np.ndarray) -> Tensor:
    """uint8 [h, w, 3] to float [3, h, w] in -1..1."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 127.5 - 1


@torch.no_grad()
def latent_moments(components: Components, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of the latents of [b, 3, h, w], each [b, c, h', w'] float32 on the CPU, scaled for the UNet."""
    posterior = components.vae.encode(pictures.to(components.device, components.dtype)).latent_dist
    factor = components.vae.config.scaling_factor
    return (posterior.mean.float() * factor).cpu(), (posterior.std.float() * factor).cpu()


@torch.inference_mode()
def to_pictures(components: Components, latents: Tensor) -> np.ndarray:
    """Latents [b, c, h, w] to uint8 [b, H, W, 3], one at a time; NumericError where they are not finite."""
    out = []
    for latent in latents:
        z = (latent / components.vae.config.scaling_factor)[None].to(components.device, components.dtype)
        x = components.vae.decode(z).sample[0].float()
        if not x.isfinite().all():
            raise NumericError("the picture came out as NaN or infinity; try --dtype float32")
        out.append(((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy())
    return np.stack(out)
