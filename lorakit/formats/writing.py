"""Adapters written whole, with what the clients look for in the metadata."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lorakit import __version__
from lorakit.adapter import Adapter
from lorakit.arrays import narrowed, type_named
from lorakit.errors import InputError, some, told_once
from lorakit.formats.codec import Context
from lorakit.io import safetensors
from lorakit.registry import ADAPTER_FORMATS

if TYPE_CHECKING:
    import torch


def save(
    file: Path,
    adapter: Adapter,
    file_format: str,
    dtype: "torch.dtype | str | None" = None,
    families: Sequence[str] | None = None,
    *,
    dry_run: bool = False,
) -> None:
    """Write the adapter whole, with what clients look for in the metadata.

    dtype     torch's, or its name, "float16"; the scales that a format asks for are applied before the rounding to it
    families  that the adapter can be for, the likeliest first, where more is known than its modules tell
    dry_run   do all of it but the writing
    raises    InputError for what the format cannot hold
    """
    named = adapter.with_metadata(
        **{
            "ss_network_module": "networks.lora",
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.implementation": "diffusers",
            "modelspec.title": "LoRA by lorakit",  # not the name of the file: the same job gives the same bytes
            **adapter.metadata,
            "lorakit.version": __version__,
        }
    )
    encoded = ADAPTER_FORMATS[file_format].encode(named, Context.of(named, families))
    if encoded.losses:
        raise InputError(
            f"{file}: {file_format} files cannot hold all of it: {some(told_once(encoded.losses), 10, '; ')}"
        )
    tensors = encoded.tensors
    if dtype is not None:
        tensors = {key: narrowed(x, type_named(str(dtype))) for key, x in tensors.items()}
    (safetensors.check if dry_run else safetensors.write)(file, tensors, encoded.metadata)
