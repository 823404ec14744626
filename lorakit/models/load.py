"""A base model by name: built in, a diffusers folder, a hub repository, or one checkpoint file."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lorakit.diffusion.process import Process
from lorakit.errors import InputError
from lorakit.formats.layouts import open_model
from lorakit.io.inputs import check_plain, utf8_path
from lorakit.models.described import Described, described
from lorakit.models.packed import pack
from lorakit.models.parts import TEXTS, part_of, quiet_libraries
from lorakit.models.places import tokenizer_folder
from lorakit.models.processes import process_of
from lorakit.models.vae import open_vae
from lorakit.process_config import NOTHING, SCHEDULER, Overrides
from lorakit.runtime.extras import faults_of_file
from lorakit.talk import Note, silent


@dataclass(kw_only=True)
class Components:
    """A Stable Diffusion model taken apart. `size` is the side in pixels it was made for.

    folder        the diffusers folder, or the checkpoint file
    zero_empty    SDXL's: the empty prompt is zeros
    vectors       learned tokens and how many vectors each has
    divided       its weights are spread over the processes of a run, which must ask it all together
    note          where the user is told what was not to be foreseen
    other_vae     the autoencoder is not the model's own
    """

    name: str
    folder: Path
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler_config: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    text_encoder_2: Any = None
    tokenizer_2: Any = None
    zero_empty: bool = False
    vectors: dict[str, int] = field(default_factory=dict)
    divided: bool = False
    note: Note = silent
    other_vae: bool = False
    _said: set[str] = field(default_factory=set)

    def say(self, text: str) -> None:
        """Tell the user, once."""
        if text not in self._said:
            self._said.add(text)
            self.note(text)

    @property
    def text_encoders(self) -> dict[str, Any]:
        """Part to text encoder, in the order their states are joined."""
        both = {"text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2}
        return {part: encoder for part, encoder in both.items() if encoder is not None}

    @property
    def tokenizers(self) -> dict[str, Any]:
        both = {"text_encoder": self.tokenizer, "text_encoder_2": self.tokenizer_2}
        return {part: both[part] for part in self.text_encoders}

    @property
    def parts(self) -> dict[str, Any]:
        """What adapters change, by the names they use."""
        return {"unet": self.unet, **self.text_encoders}

    @property
    def vae_factor(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_channels(self) -> int:
        return int(self.vae.config.latent_channels)

    @property
    def inpaints(self) -> bool:
        """Whether the UNet takes a mask and the latents of the masked picture beside the noisy ones."""
        return bool(self.unet.config.in_channels == 2 * self.latent_channels + 1)

    @property
    def guidance_width(self) -> int | None:
        """How many numbers of the guidance a UNet is told that was distilled to need no negative prompt (LCM); None of others."""
        found: int | None = self.unet.config.time_cond_proj_dim
        return found

    @property
    def sized(self) -> bool:
        """Whether the UNet is told the picture's sizes and the pooled text (SDXL)."""
        return self.unet.config.addition_embed_type == "text_time"

    @property
    def size(self) -> int:
        return self.unet.config.sample_size * self.vae_factor

    @property
    def multiple(self) -> int:
        """Sides of pictures are multiples of this many pixels."""
        return self.vae_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @cached_property
    def process(self) -> Process:
        """The diffusion process that the model was trained for; InputError where lorakit knows none like it."""
        return process_of(self.scheduler_config, str(self.folder))


def is_small(components: Components) -> bool:
    """A model whose operators are too short for threads of their own: on a CPU it works on one thread a piece."""
    if components.divided:
        return False  # threads would ask it in an order of their own
    return components.device.type == "cpu" and sum(p.numel() for p in components.unet.parameters()) < 50e6


def load(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    tokenizer: Path | None = None,
    wanted: Overrides = NOTHING,
    vae: str | None = None,
    note: Note = silent,
) -> Components:
    """All parts in `dtype` on `device`, in evaluation mode, without gradients; no pickle of it is executed.

    tokenizer   a folder with a tokenizer's files, for a single file, which has none
    wanted      what the user says of the model in place of what it says itself
    vae         another autoencoder in the place of the model's own: a hub id, a folder or a file
    """
    about = described(name, note, wanted)
    texts = {part: _tokenizer(about, part, tokenizer, note) for part in TEXTS if f"{part}/config.json" in about.configs}
    model = open_model(about.place)
    quiet_libraries()
    arrays = model.arrays
    with faults_of_file(f"{about.place} is not a whole Stable Diffusion model"):
        own = ("unet", *texts) if vae is not None else ("unet", "vae", *texts)
        parts = {
            part: part_of(part, about.place, about.configs, arrays=arrays, device=device, dtype=dtype, note=note)
            for part in own
        }
    if vae is not None:
        parts["vae"] = _vae(vae, about, device, dtype, note)
    if device.type == "cpu" and dtype == torch.bfloat16:
        for part in ("unet", "vae"):
            # The kernels for bfloat16 want a pixel's channels together, and would lay everything out anew at each call.
            parts[part].to(memory_format=torch.channels_last)
            pack(parts[part])
    for part, (words, _) in texts.items():
        # The pooled state stands where the text ends; old configs tell a number that is not that word's.
        inner = getattr(parts[part], "text_model", parts[part])
        inner.eos_token_id = words.eos_token_id
    return Components(
        name=name,
        folder=about.place,
        unet=parts["unet"],
        vae=parts["vae"],
        text_encoder=parts["text_encoder"],
        tokenizer=texts["text_encoder"][0],
        scheduler_config=about.configs[SCHEDULER],
        device=device,
        dtype=dtype,
        text_encoder_2=parts.get("text_encoder_2"),
        tokenizer_2=texts.get("text_encoder_2", (None, None))[0],
        zero_empty="text_encoder_2" in texts and _zero_empty(about, note),
        note=note,
        other_vae=vae is not None,
    )


def _zero_empty(about: Described, note: Note) -> bool:
    """Whether SDXL's empty prompt is zeros; yes, as diffusers has it, where the model does not say."""
    said = about.configs.get("model_index.json", {}).get("force_zeros_for_empty_prompt")
    zero = True if said is None else bool(said)
    how = "is zeros" if zero else "is encoded as any other"
    note(f"an empty prompt {how}" + (", as model_index.json says" if said is not None else ""))
    return zero


def _vae(name: str, about: Described, device: torch.device, dtype: torch.dtype, note: Note) -> nn.Module:
    place, config, arrays = open_vae(name, about.configs["vae/config.json"], note)
    with faults_of_file(f"--vae {place} is not a whole autoencoder"):
        own = {n: x for n, x in arrays.items() if n.startswith("vae.")}
        return part_of("vae", place, {"vae/config.json": config}, arrays=own, device=device, dtype=dtype, note=note)


_SECOND_PAD = "!"  # SDXL's second tokenizer pads with it, number 0, and its first with the word that ends a text
_MOST_TOKENIZER = 64 << 20  # bytes of a file


def _tokenizer(about: Described, part: str, given: Path | None, note: Note) -> tuple[Any, Path]:
    folder = check_plain(tokenizer_folder(about.place, about.kind, part, given), "tokenizer")
    first = part != "text_encoder" and "text_encoder/config.json" in about.configs
    missing = first and folder == tokenizer_folder(about.place, about.kind, "text_encoder", given)
    length = about.configs[f"{part}/config.json"].get("max_position_embeddings", 77)
    quiet_libraries()
    large = [file.name for file in folder.iterdir() if file.stat().st_size > _MOST_TOKENIZER]
    if large:
        raise InputError(f"{folder}: {large[0]} is too large for a tokenizer's file")
    with faults_of_file(f"{folder}: no tokenizer to be read"), utf8_path(folder) as path:
        from transformers import CLIPTokenizer

        words = CLIPTokenizer.from_pretrained(path, model_max_length=length, local_files_only=True)
    if missing:
        note(
            f"{folder.parent} has no tokenizer_2: {folder.name} is taken for it, padded with {_SECOND_PAD!r} as SDXL's second is"
        )
        if _SECOND_PAD in words.get_vocab():
            words.pad_token = _SECOND_PAD
    if None in (words.bos_token_id, words.eos_token_id, words.pad_token_id):
        raise InputError(f"{folder}: the tokenizer has no tokens for the beginning, the end and the padding of a text")
    return words, folder
