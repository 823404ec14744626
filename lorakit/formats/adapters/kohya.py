"""kohya, A1111 and LyCORIS: `lora_unet_<path with underscores>.<ending>`, read by every client."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from lorakit import deltas, spellings
from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.delta import Delta
from lorakit.deltas.dora import DoRA
from lorakit.deltas.low_rank import LowRank
from lorakit.deltas.turned import Turned
from lorakit.families import FAMILIES, Shape
from lorakit.formats import dotted as _dotted
from lorakit.formats.adapters import _bundle, _marks
from lorakit.formats.codec import Context, Encoded
from lorakit.formats.scaling import common_alpha, scalar, shaped, with_scale
from lorakit.spellings import stranger
from lorakit.targets import kohya_name_of, original_names

PREFIXES = tuple(text for text, prefix in spellings.PREFIXES.items() if prefix.format == "kohya")
DORA = "input"  # what of a weight a DoRA has lengths of, where the programs that read the format are to apply it


def matches(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> bool:
    return _marks.is_first("kohya", shapes, metadata)


def decode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    return _dotted.read(tensors, metadata, "kohya")


ENDINGS: tuple[str, ...] = ()  # its own are ours


def stems_of(adapter: Adapter, context: Context) -> Callable[[str], Collection[str]]:
    """The names that a file of it may have today for a module of ours."""
    names = _names(adapter, context)
    # Of a text encoder alone the family is not sure, nor of a model without tables the spelling.
    single = not any(name.startswith("unet.") for name in adapter.modules)
    other = {f"unet.{ours}": theirs for theirs, ours in original_names().items()} if context.family is None else {}

    def stems(module: str) -> set[str]:
        stem = names.get(module, module)
        found = {stem, stem.replace("lora_unet_", "oft_unet_", 1)}
        if single and module.startswith("text_encoder."):
            found |= {stem.replace("lora_te1_", "lora_te_", 1), stem.replace("lora_te_", "lora_te1_", 1)}
        return found | {f"lora_unet_{other[module].replace('.', '_')}"} if module in other else found

    return stems


def _names(adapter: Adapter, context: Context) -> Mapping[str, str]:
    """sd-scripts calls the text encoders of all but SD1 and SD2 te1 and te2."""
    held = (*adapter.modules, *adapter.biases)
    numbered = any(name.startswith("text_encoder_2.") or stranger(name) for name in held) or None
    if context.family is None and any(key.startswith("lora_te1_") for key in adapter.keys.values()):
        numbered = True
    return kohya_name_of(context.family, numbered)


def encode(adapter: Adapter, context: Context) -> Encoded:
    """The universal file: one constant alpha that every float type holds, all other scale in the factors.

    diffusers gives a module the commonest alpha of its part, whatever its own; so there is only one. LyCORIS kinds are
    written with their own endings, which diffusers does not read; `clients` says so.
    """
    names, losses = _names(adapter, context), list[str]()
    alpha = common_alpha(delta.alpha for delta in adapter.modules.values() if isinstance(delta, LowRank))
    tensors: dict[str, Array] = {}
    for module, delta in adapter.modules.items():
        if (stem := _stem(module, names)) is None:
            losses.append(f"{module}: the kohya format has no name for this module")
            continue
        if isinstance(delta, Turned):
            losses.append(f"{module}: the kohya format cannot hold an OFT that rotates inputs")
            continue
        if isinstance(delta, LowRank):
            delta = shaped(with_scale(delta, alpha), context.shapes.get(module))
            tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"] = delta.down, delta.up
            tensors[f"{stem}.alpha"] = scalar(alpha, delta.down)
        else:
            tensors |= {f"{stem}.{ending}": array for ending, array in deltas.write(_unscaled(delta)).items()}
    for module, bias in adapter.biases.items():
        if (stem := _stem(module, names)) is None:
            losses.append(f"{module}: the kohya format has no name for the bias of this module")
            continue
        kind = getattr(adapter.modules.get(module), "kind", "")
        tensors[f"{stem}.{'b_norm' if kind == 'norm' else 'diff_b'}"] = bias
    tensors |= _bundle.write(adapter.embeddings)
    tensors |= adapter.unknown
    return Encoded(tensors, _metadata(adapter, context, alpha), tuple(losses))


def _stem(module: str, names: Mapping[str, str]) -> str | None:
    return names.get(module) or (module if module.startswith(PREFIXES) else None)


def _unscaled(delta: Delta) -> Delta:
    """A DoRA whose low-rank part has the scale 1, for A1111 applies that scale after the lengths; others as they are."""
    if not isinstance(delta, DoRA) or not isinstance(delta.inner, LowRank):
        return delta
    return replace(delta, inner=with_scale(delta.inner, float(delta.inner.down.shape[0])))


def _metadata(adapter: Adapter, context: Context, alpha: float) -> dict[str, str]:
    metadata = {key: value for key, value in adapter.metadata.items() if key != "lora_adapter_metadata"}
    ranks = {delta.rank for delta in adapter.modules.values() if delta.rank}
    metadata["ss_network_dim"] = str(max(ranks)) if len(ranks) == 1 else "Dynamic"
    metadata["ss_network_alpha"] = str(alpha)
    metadata.setdefault("ss_network_module", "networks.lora")
    if context.family is not None and context.sure:
        family = FAMILIES[context.family]
        metadata.setdefault("ss_base_model_version", family.version)
        metadata |= {key: value for key, value in family.extra.items() if key not in metadata}
        metadata.setdefault("modelspec.architecture", f"{family.architecture}/lora")
    return metadata
