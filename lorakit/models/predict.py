"""The one place where the UNet is asked: sampling and training go through here."""

from __future__ import annotations

import torch
from torch import Tensor

from lorakit.diffusion.guidance import embedded
from lorakit.models.conditioning import Conditioning
from lorakit.models.load import Components


def predict(
    components: Components,
    latents: Tensor,
    timesteps: Tensor,
    conditioning: Conditioning,
    inpaint: Tensor | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """What the UNet says of noisy latents: noise, v or the picture, as its process has it.

    latents        [b, c, h, w], scaled as the solver wants it; cast to the model's dtype
    timesteps      [b] or a scalar
    conditioning   of b pictures; for SDXL with sizes
    inpaint        [b, c + 1, h, w] for a UNet that inpaints: the mask (1 is to be drawn) and the latents of the masked
                   picture; other UNets take none
    guidance       for a UNet that is told it (LCM); 1, no guidance, is what training tells it: the pictures as they are
    gives          [b, c, h, w] in the model's dtype
    raises         ValueError where the model needs sizes or a mask that are not there
    """
    told = conditioning.to(components.device, components.dtype)
    latents = latents.to(components.device, components.dtype)
    if components.inpaints:
        if inpaint is None:
            raise ValueError("an inpainting UNet needs a mask and the masked picture")
        latents = torch.cat([latents, inpaint.to(components.device, components.dtype)], 1)
    added = None
    if components.sized:
        if told.pooled is None or told.time_ids is None:
            raise ValueError("this model is told pooled text and sizes, and the conditioning has none; see sized()")
        added = {"text_embeds": told.pooled, "time_ids": told.time_ids}
    known = None
    if (width := components.guidance_width) is not None:
        known = embedded(guidance, width).to(latents).expand(len(latents), -1)
    return components.unet(latents, timesteps, told.states, timestep_cond=known, added_cond_kwargs=added).sample
