"""ComfyUI's own: the names of its models' modules, `diffusion_model.<original path>`, `text_encoders.clip_l.transformer.<path>`.

Its nodes that extract and train write them, and so do OneTrainer, ai-toolkit and diffusion-pipe.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from lorakit import deltas
from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.deltas.low_rank import LowRank
from lorakit.deltas.turned import Turned
from lorakit.families import FAMILIES, Shape
from lorakit.formats.adapters import _bundle, _marks
from lorakit.formats.codec import Context, Encoded
from lorakit.formats.dotted import KeyReading
from lorakit.formats.peft_config import STALE
from lorakit.formats.scaling import shaped
from lorakit.spellings import parse
from lorakit.targets import original_name_of, original_names

DORA = "input"
_ARCHITECTURE = "modelspec.architecture"
_UNET = "diffusion_model."
_OWN = (_UNET, "text_encoders.")


def matches(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> bool:
    return _marks.is_first("comfy", shapes, metadata)


def decode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    reading, own = KeyReading(), _numbered_otherwise(metadata)
    for key, array in tensors.items():
        spelled = parse(key)
        if spelled.part == "unet" and spelled.path in own:
            spelled = replace(spelled, path=own[spelled.path])
        reading.add(spelled, array)
    return reading.adapter(lambda part: None, metadata, "comfy")


def _numbered_otherwise(metadata: Mapping[str, str]) -> dict[str, str]:
    """Original paths to ours of the family that the metadata name, where its blocks have another number of layers than
    those of the original models, so that the same path is another module."""
    said = metadata.get(_ARCHITECTURE, "").partition("/")[0]
    odd = (family.unet for family in FAMILIES.values() if family.architecture == said and family.unet.layers != 2)
    return {theirs: ours for unet in odd for ours, theirs in unet.original_names()}


ENDINGS: tuple[str, ...] = ()  # its own are ours


def stems_of(adapter: Adapter, context: Context) -> Callable[[str], Collection[str]]:
    """The names that a file of it may have today for a module of ours."""
    names = names_of(context)
    other = {f"unet.{ours}": theirs for theirs, ours in original_names().items()} if context.family is None else {}
    return lambda module: {names.get(module, module), f"{_UNET}{other.get(module, module)}"}


def encode(adapter: Adapter, context: Context) -> Encoded:
    """Every kind of delta with its own alpha: ComfyUI applies each module's. A linear module's factors have two dimensions
    and a convolution's four, as its weight has."""
    names, losses = names_of(context), list[str]()
    tensors: dict[str, Array] = {}
    for module, delta in adapter.modules.items():
        stem = _stem(module, names)
        if stem is None:
            losses.append(f"{module}: ComfyUI has no name for this module")
            continue
        if isinstance(delta, Turned):
            losses.append(f"{module}: ComfyUI cannot hold an OFT that rotates inputs")
            continue
        if isinstance(delta, LowRank):
            delta = shaped(delta, context.shapes.get(module))
        tensors |= {f"{stem}.{ending}": array for ending, array in deltas.write(delta).items()}
    for module, bias in adapter.biases.items():
        stem = _stem(module, names)
        if stem is None:
            losses.append(f"{module}: ComfyUI has no name for the bias of this module")
            continue
        kind = getattr(adapter.modules.get(module), "kind", "")
        tensors[f"{stem}.{'b_norm' if kind == 'norm' else 'diff_b'}"] = bias
    tensors |= _bundle.write(adapter.embeddings)
    tensors |= adapter.unknown
    metadata = {key: value for key, value in adapter.metadata.items() if key not in STALE}
    if context.family is not None and context.sure:
        family = FAMILIES[context.family]
        metadata.setdefault("ss_base_model_version", family.version)
        metadata.setdefault(_ARCHITECTURE, f"{family.architecture}/lora")
        if family.unet.layers != 2:  # it tells how the blocks are numbered
            metadata[_ARCHITECTURE] = f"{family.architecture}/lora"
    return Encoded(tensors, metadata, tuple(losses))


def _stem(module: str, names: Mapping[str, str]) -> str | None:
    return names.get(module) or (module if module.startswith(_OWN) else None)


def names_of(context: Context) -> dict[str, str]:
    """Our name to ComfyUI's, for the modules of a family; without one, by the modules that the model has."""
    family = context.family
    if family is None:
        # An upsampler of a block with attention has another number than that of one without.
        family = "sdxl" if any(".up_blocks.0.attentions." in name for name in context.shapes) else "sd1"
    clip_l = "clip_h" if family == "sd2" else "clip_l"
    texts = {"text_encoder": clip_l, "text_encoder_2": "clip_g"}
    return original_name_of(family, _UNET, {part: f"text_encoders.{clip}.transformer." for part, clip in texts.items()})
