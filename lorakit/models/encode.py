"""Pictures to latents and back, prompts to conditionings."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorakit.errors import InputError, NumericError, UsageError
from lorakit.models import latents
from lorakit.models.conditioning import Conditioning
from lorakit.models.load import Components, is_small
from lorakit.models.tokens import spelled, words
from lorakit.runtime.workers import cores, each


def conditioning_of(
    components: Components, prompts: Sequence[str], clip_skip: int = 1
) -> tuple[Conditioning, list[str]]:
    """The conditioning of the prompts, without sizes, on the device; and the prompts longer than the model reads.

    clip_skip   as the webuis count: 1 takes the layer the model was made with, 2 the one before it, and so on
    """
    rows = token_ids(components, prompts)

    # One prompt at a time: a state must not depend on its neighbours in the batch, to the bit.
    @torch.no_grad()
    def encode(i: int) -> Conditioning:
        if components.zero_empty and not prompts[i]:
            return zeros(components)
        return encode_ids(components, [ids[i : i + 1] for ids in rows], clip_skip)

    found = each(encode, range(len(prompts)), cores()) if is_small(components) else map(encode, range(len(prompts)))
    return Conditioning.cat(list(found)), too_long(components, prompts)


def too_long(components: Components, prompts: Sequence[str]) -> list[str]:
    """The prompts of more tokens than a text encoder of the model reads."""
    written = [spelled(prompt, components.vectors) for prompt in prompts]
    cut = set[int]()
    for tokenizer in components.tokenizers.values():
        cut |= {i for i, ids in enumerate(tokenizer(written).input_ids) if len(ids) > tokenizer.model_max_length}
    return [prompts[i] for i in sorted(cut)]


def cut_off(components: Components, prompts: Sequence[str], token: str) -> list[str]:
    """The prompts in which a learned token stands behind the last token that a text encoder reads."""
    written = [spelled(prompt, components.vectors) for prompt in prompts]
    cut = set[int]()
    for tokenizer in components.tokenizers.values():
        names = words(token, components.vectors.get(token, 1))
        wanted = {tokenizer.convert_tokens_to_ids(name) for name in names}
        whole, read = (tokenizer(written, truncation=short).input_ids for short in (False, True))
        cut |= {i for i, (a, b) in enumerate(zip(whole, read, strict=True)) if wanted & set(a) and not wanted <= set(b)}
    return [prompts[i] for i in sorted(cut)]


def token_ids(components: Components, prompts: Sequence[str]) -> list[Tensor]:
    """Of each text encoder the ids [b, tokens] of the prompts, cut to what it reads."""
    written = [spelled(prompt, components.vectors) for prompt in prompts]
    return [
        tokenizer(written, padding="max_length", truncation=True, return_tensors="pt").input_ids
        for tokenizer in components.tokenizers.values()
    ]


def encode_ids(components: Components, ids: Sequence[Tensor], clip_skip: int = 1) -> Conditioning:
    """ids: of each text encoder [b, tokens]. SD takes the last layer, normalised; SDXL both encoders' last but one, side
    by side, and what the second pools. With a gradient, where the caller wants one."""
    double = components.text_encoder_2 is not None
    states, pooled = [], None
    for encoder, row in zip(components.text_encoders.values(), ids, strict=True):
        try:
            done = encoder(row.to(components.device), output_hidden_states=double or clip_skip > 1)
        except IndexError as error:
            raise InputError(
                f"{components.folder}: its tokenizer has token {int(row.max())}, which its text encoder does not know"
            ) from error
        if double:
            states.append(_hidden(done, clip_skip + 1, encoder))
            pooled = getattr(done, "text_embeds", None)
        elif clip_skip > 1:
            states.append(getattr(encoder, "text_model", encoder).final_layer_norm(_hidden(done, clip_skip, encoder)))
        else:
            states.append(done.last_hidden_state)
    return Conditioning(torch.cat(states, -1), pooled)


def _hidden(done: Any, from_end: int, encoder: Any) -> Tensor:
    if from_end > len(done.hidden_states):
        raise UsageError(f"clip skip {from_end}: the model's text encoder has {len(done.hidden_states) - 1} layers")
    return done.hidden_states[-from_end]


def zeros(components: Components, chunks: int = 1) -> Conditioning:
    """The empty prompt of a model that was trained with zeros for it."""
    sizes = {part: int(encoder.config.hidden_size) for part, encoder in components.text_encoders.items()}
    length = components.tokenizer.model_max_length * chunks
    states = torch.zeros((1, length, sum(sizes.values())), device=components.device, dtype=components.dtype)
    return Conditioning(states, states.new_zeros((1, int(components.text_encoder_2.config.projection_dim))))


def to_tensor(picture: np.ndarray) -> Tensor:
    """uint8 [h, w, 3] to float [3, h, w] in -1..1."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 127.5 - 1


def _in_float32(components: Components) -> None:
    """The autoencoder is what overflows half precision first."""
    kind = str(components.vae.dtype).removeprefix("torch.")
    components.vae.to(torch.float32)
    components.say(f"the autoencoder overflowed in {kind} and works in float32 from now on")


@torch.no_grad()
def latent_moments(components: Components, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of the latents of [b, 3, h, w], each [b, c, h', w'] float32 on the CPU, scaled for the UNet."""
    posterior = components.vae.encode(pictures.to(components.device, components.vae.dtype)).latent_dist
    if components.vae.dtype != torch.float32 and not posterior.mean.isfinite().all():
        _in_float32(components)
        posterior = components.vae.encode(pictures.to(components.device, torch.float32)).latent_dist
    mean, spread = latents.moments(components.vae.config, posterior.mean.float(), posterior.std.float())
    return mean.cpu(), spread.cpu()


@torch.inference_mode()
def to_pictures(components: Components, drawn: Tensor) -> np.ndarray:
    """Latents [b, c, h, w] to uint8 [b, H, W, 3], one at a time; NumericError where they are not finite."""
    out = []
    for one in drawn:
        z = latents.decodable(components.vae.config, one[None]).to(components.device)
        x = components.vae.decode(z.to(components.vae.dtype)).sample[0].float()
        if not x.isfinite().all() and components.vae.dtype != torch.float32:
            _in_float32(components)
            x = components.vae.decode(z.float()).sample[0].float()
        if not x.isfinite().all():
            kind = str(components.dtype).removeprefix("torch.")
            raise NumericError(f"the autoencoder, in float32, gave NaN or infinity for latents made in {kind}")
        out.append(((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy())
    return np.stack(out)
