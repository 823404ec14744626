"""What a base-model file is, from the names and shapes in its header."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.arrays import Array, dtype_of
from lorakit.families import FAMILIES
from lorakit.formats.layouts import marks
from lorakit.io.plain import read_json
from lorakit.process_config import SCHEDULER
from lorakit.spellings import is_adapter_key

_SINGLE = "model.diffusion_model."
_TEXTS = {
    "cond_stage_model.transformer.": "CLIP-L text encoder",
    "cond_stage_model.model.": "OpenCLIP-H text encoder",
    "conditioner.embedders.0.transformer.": "CLIP-L text encoder",
    "conditioner.embedders.0.model.": "OpenCLIP-G text encoder",
    "conditioner.embedders.1.model.": "OpenCLIP-G text encoder",
    "first_stage_model.": "VAE",
}
# A key of attn2.to_k in either layout: a block that every Stable Diffusion of that layout has.
_CROSS = ("transformer_blocks.0.attn2.to_k.weight", "transformer_blocks.0.attn2.to_v.weight")


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a base model is.

    layout      "single file" or "diffusers UNet"
    family      None where no table has it
    scheduler   the config of its scheduler, as far as it says so; None where nothing says what it predicts
    """

    layout: str
    family: str | None
    evidence: str
    parts: tuple[str, ...]
    scheduler: dict[str, Any] | None
    inpainting: bool
    dtypes: dict[str, int]


def describe(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Description | None:
    """The description of a checkpoint's tensors; None where they are no base model's. Reads no tensor."""
    single = any(key.startswith(_SINGLE) for key in tensors)
    if not single and ("conv_in.weight" not in tensors or any(map(is_adapter_key, tensors))):
        return None
    prefix = _SINGLE if single else ""
    cross = next((x.shape[1] for key, x in tensors.items() if key.startswith(prefix) and key.endswith(_CROSS)), None)
    first = tensors.get(f"{prefix}input_blocks.0.0.weight" if single else "conv_in.weight")
    width, channels = (first.shape[0], first.shape[1]) if first is not None else (None, None)
    fitting = [n for n, f in FAMILIES.items() if f.unet.cross == cross and f.unet.channels[0] == width]
    parts = ["UNet", *sorted({what for begin, what in _TEXTS.items() if any(k.startswith(begin) for k in tensors)})]
    return Description(
        layout="single file" if single else "diffusers UNet",
        family=fitting[0] if fitting else None,
        evidence=f"cross-attention takes {cross} inputs, the first block has {width} channels",
        parts=tuple(parts),
        scheduler=_scheduler(tensors, metadata),
        inpainting=channels == 9,
        dtypes=dict(Counter(dtype_of(x) for x in tensors.values())),
    )


def _scheduler(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """What the file says of it; one that says nothing may be of either kind."""
    found = marks.read(tensors.keys(), metadata, "the file")
    if found.prediction is None and not found.edm and not found.zero_snr:
        return None
    return found.scheduler({"_class_name": "DDIMScheduler", "prediction_type": "epsilon"})


def scheduler_of_folder(folder: Path) -> dict[str, Any] | None:
    """A diffusers folder says it in its scheduler's config."""
    file = folder / SCHEDULER
    return read_json(file, "config") if file.is_file() else None
