"""What a base-model file is, from the names and shapes in its header."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorakit.arrays import Array, dtype_of
from lorakit.families import FAMILIES
from lorakit.io.plain import read_json

_SINGLE = "model.diffusion_model."
_TEXTS = {
    "cond_stage_model.transformer.": "CLIP-L text encoder", "cond_stage_model.model.": "OpenCLIP-H text encoder",
    "conditioner.embedders.0.transformer.": "CLIP-L text encoder", "conditioner.embedders.0.model.": "OpenCLIP-G text encoder",
    "conditioner.embedders.1.model.": "OpenCLIP-G text encoder", "first_stage_model.": "VAE",
}  # fmt: skip
# A key of attn2.to_k in either layout: a block that every Stable Diffusion of that layout has.
_CROSS = ("transformer_blocks.0.attn2.to_k.weight", "transformer_blocks.0.attn2.to_v.weight")


@dataclass(frozen=True)
class Description:
    """layout ("single file", "diffusers UNet"), family or None, evidence, parts, prediction type or None, dtypes."""

    layout: str
    family: str | None
    evidence: str
    parts: tuple[str, ...]
    prediction: str | None
    inpainting: bool
    dtypes: dict[str, int]


def describe(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Description | None:
    """The description of a checkpoint's tensors; None where they are no base model's. Reads no tensor."""
    single = any(key.startswith(_SINGLE) for key in tensors)
    if not single and "conv_in.weight" not in tensors:
        return None
    prefix = _SINGLE if single else ""
    cross = next((x.shape[1] for key, x in tensors.items() if key.startswith(prefix) and key.endswith(_CROSS)), None)
    first = tensors.get(f"{prefix}input_blocks.0.0.weight" if single else "conv_in.weight")
    width, channels = (first.shape[0], first.shape[1]) if first is not None else (None, None)
    fitting = [n for n, f in FAMILIES.items() if f.unet.cross == cross and f.unet.channels[0] == width]
    parts = ["UNet", *sorted({what for begin, what in _TEXTS.items() if any(k.startswith(begin) for k in tensors)})]
    return Description(
        "single file" if single else "diffusers UNet", fitting[0] if fitting else None,
        f"cross-attention takes {cross} inputs, the first block has {width} channels", tuple(parts),
        _prediction(tensors, metadata), channels == 9, dict(Counter(dtype_of(x) for x in tensors.values())),
    )  # fmt: skip


def _prediction(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> str | None:
    """What the file says of it; an SD2 file that says nothing may be of either kind."""
    if "modelspec.prediction_type" in metadata:
        return metadata["modelspec.prediction_type"]
    return "v" if "v_pred" in tensors else None


def prediction_of_folder(folder: Path) -> str | None:
    """A diffusers folder says it in its scheduler's config."""
    file = folder / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        return None
    return str(read_json(file, "config").get("prediction_type", "epsilon"))
