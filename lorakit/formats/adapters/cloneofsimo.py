"""cloneofsimo/lora: modules by number, `unet:7:up`, and older flat lists [up0, down0, up1, ...] from pickles.

The number is the place of the module in the model as the diffusers of the day built it, which no file tells: the shapes
do. A list comes as keys "0", "1" ...; those of its sidecars begin with `text_encoder/` and `ti/`. There is no alpha.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product

import numpy as np

from lorakit.adapter import Adapter
from lorakit.arrays import Array, cast, dtype_of, is_torch
from lorakit.families import FAMILIES, Shape, table
from lorakit.formats.adapters import _marks
from lorakit.formats.codec import Context, Encoded, Groups, build, flat
from lorakit.formats.factors import factors
from lorakit.formats.peft_config import STALE
from lorakit.formats.scaling import reshaped
from lorakit.formats.vectors import Tokens

_SAFE = re.compile(r"(\w+):(\d+):(up|down)")
_LISTED = re.compile(r"(?:(text_encoder)/)?(\d+)")
_TI, _EMBED = "ti/", "<embed>"
_FAMILIES = ("sd1", "sd2")
_CLASSES = {"unet": ["Attention", "CrossAttention", "GEGLU"], "text_encoder": ["CLIPAttention"]}
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_TEXT = ("k_proj", "v_proj", "q_proj", "out_proj")


@cache
def unet_order(
    old: bool = True, linear_units: bool = True, convolutions: bool = False, known: frozenset[str] | None = None
) -> tuple[str, ...]:
    """Modules of the UNet by number; `known` are all that the model has, by default SD1's.

    old             as diffusers up to 0.14 had it: the feed-forward net stands between the two attentions, later last
    linear_units    with that net's first linear module, as files since December 2022 have it (its class, GEGLU)
    convolutions    with all of the residual blocks, as `inject_trainable_lora_extended` takes them

    The middle block comes last: it was assigned after the lists of the others. A block's attentions come before its
    residual blocks (diffusers' unet_2d_blocks.py of 0.11 to 0.14; resnet.py for the order within).
    """
    names: list[str] = []
    known = frozenset(table("sd1")) if known is None else known
    for block in (*(f"down_blocks.{i}" for i in range(4)), *(f"up_blocks.{i}" for i in range(4)), "mid_block"):
        for i, depth in product(range(4), range(10)):
            inner = f"unet.{block}.attentions.{i}.transformer_blocks.{depth}"
            first, second = ([f"{inner}.{which}.{name}" for name in _ATTENTION] for which in ("attn1", "attn2"))
            unit = [f"{inner}.ff.net.0.proj"] if linear_units else []
            names += [*first, *unit, *second] if old else [*first, *second, *unit]
        for i in range(4 if convolutions else 0):
            inner = f"unet.{block}.resnets.{i}"
            names += [f"{inner}.{name}" for name in ("conv1", "time_emb_proj", "conv2", "conv_shortcut")]
    return tuple(name for name in names if name in known)


def _orders(known: frozenset[str] | None = None) -> list[tuple[str, ...]]:
    """All orders that some diffusers had, each once."""
    switches = product((True, False), (True, False), (False, True))
    return list(dict.fromkeys(unet_order(*chosen, known) for chosen in switches))


def named_by_model(adapter: Adapter, shapes: Mapping[str, Shape]) -> Adapter:
    """Modules that are still numbers, `unet:7`, by the names of a model whose modules have these shapes."""
    numbered = {name: delta for name, delta in adapter.modules.items() if re.fullmatch(r"unet:\d+", name)}
    held = [delta.shape for _, delta in sorted(numbered.items(), key=lambda item: int(item[0][5:]))]
    for order in _orders(frozenset(shapes)) if numbered else ():
        if len(order) == len(held) and all(
            s is not None and flat(s) == flat(shapes[n]) for n, s in zip(order, held, strict=True)
        ):
            names = {f"unet:{i}": name for i, name in enumerate(order)}
            return replace(
                adapter,
                modules={names.get(name, name): delta for name, delta in adapter.modules.items()},
                keys={names.get(name, name): key for name, key in adapter.keys.items()},
                faults=tuple(fault for fault in adapter.faults if not fault.startswith("unet: ")),
            )
    return adapter


def text_order(pairs: int) -> tuple[str, ...]:
    return tuple(f"text_encoder.text_model.encoder.layers.{i // 4}.self_attn.{_TEXT[i % 4]}" for i in range(pairs))


def matches(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> bool:
    return _marks.is_first("cloneofsimo", shapes, metadata)


@dataclass
class _PartFactors:
    """Of one part: index to "up" and "down" to (key, array)."""

    pairs: dict[int, dict[str, tuple[str, Array]]] = field(default_factory=dict)

    def add(self, index: int, direction: str, key: str, array: Array) -> None:
        self.pairs.setdefault(index, {})[direction] = (key, array)

    def shapes(self) -> list[Shape | None]:
        """(out, in * kernel) of each weight in turn, None for a pair that is not whole."""
        return [_shape(self.pairs[i]) for i in sorted(self.pairs)]

    def has_gaps(self) -> bool:
        return max(self.pairs) != len(self.pairs) - 1


def _shape(pair: Mapping[str, tuple[str, Array]]) -> Shape | None:
    if len(pair) != 2 or any(x.ndim not in (2, 4) for _, x in pair.values()):
        return None
    return flat((pair["up"][1].shape[0], *pair["down"][1].shape[1:]))


def decode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    parts, tokens, groups = dict[str, _PartFactors](), Tokens(), Groups()
    for key, array in tensors.items():
        if found := _SAFE.fullmatch(key):
            parts.setdefault(found[1], _PartFactors()).add(int(found[2]), found[3], key, array)
        elif found := _LISTED.fullmatch(key):
            index = int(found[2])
            parts.setdefault(found[1] or "list", _PartFactors()).add(index // 2, ("up", "down")[index % 2], key, array)
        elif key.startswith(_TI) or metadata.get(key) == _EMBED or _is_token(key, array):
            tokens.add(key.removeprefix(_TI), key, array, "text_encoder")
        else:
            groups.unknown[key] = array
    if "list" in parts:
        listed = parts.pop("list")
        parts["text_encoder" if "text_encoder" not in parts and _is_text(listed.shapes()) else "unet"] = listed
    names, faults = dict[str, str](), list(tokens.faults)
    for part, held in parts.items():
        order = _order(part, held)
        if isinstance(order, str):
            faults.append(f"{part}: {order}")
        for index, pair in held.pairs.items():
            stem = f"{part}:{index}"
            names[stem] = order[index] if not isinstance(order, str) else stem
            for direction, (key, array) in pair.items():
                groups.add(stem, f"lora_{direction}.weight", key, array)
    own = {key: value for key, value in metadata.items() if not _is_structure(key, value)}
    adapter = build(groups, names.get, own, "cloneofsimo")
    return replace(adapter, embeddings=tokens.found, faults=(*faults, *adapter.faults))


def _is_structure(key: str, value: str) -> bool:
    """Whether an entry of the metadata says no more than the tensors do."""
    return key in _CLASSES or value == _EMBED or re.fullmatch(r"\w+:\d+:rank", key) is not None


def _is_token(key: str, array: Array) -> bool:
    return key.startswith("<") and key.endswith(">") and array.ndim == 1


def _is_text(shapes: list[Shape | None]) -> bool:
    """A text encoder's attention is square and of one width; a UNet's is of several."""
    whole = {shape for shape in shapes if shape is not None}
    return len(whole) == 1 and all(shape[0] == shape[1] for shape in whole)


def _order(part: str, held: _PartFactors) -> tuple[str, ...] | str:
    """The modules by number; or why they are not known."""
    if part not in _CLASSES:
        return "cloneofsimo files number the modules of unet and text_encoder only"
    if held.has_gaps():
        return f"the numbers of its {len(held.pairs)} modules have gaps"
    shapes = held.shapes()
    if part == "text_encoder":
        return text_order(len(shapes)) if _is_text(shapes) else "its modules are not the attention of a text encoder"
    orders = _orders()
    fitting = [order for order in orders if len(order) == len(shapes)]
    for family, order in product(_FAMILIES, fitting):
        if all(s in (None, flat(table(family)[name])) for name, s in zip(order, shapes, strict=True)):
            return order
    known = ", ".join(map(str, sorted({len(order) for order in orders})))
    what = f"the shapes of its {len(shapes)} modules" if fitting else f"{len(shapes)} modules"
    return f"{what} are of no UNet whose order is known ({known} of SD1 or SD2); give the model with --model"


def encode(adapter: Adapter, context: Context) -> Encoded:
    """Safeloras in the order of diffusers up to 0.14, every number there: what the adapter leaves alone is written as
    zeros of rank 1. `up` has the scale."""
    parts, losses = factors(replace(adapter, embeddings={}), context, _CLASSES, "cloneofsimo", dora=False)
    metadata = {key: value for key, value in adapter.metadata.items() if key not in STALE}
    tensors: dict[str, Array] = {}
    like = next((one.down for by_path in parts.values() for one in by_path.values()), None)
    for part, by_path in parts.items():
        order = _written_order(part, context.family)
        written = {f"{part}.{path}": one for path, one in by_path.items()}
        losses += [f"{name}: cloneofsimo files have no number for this module" for name in written if name not in order]
        if written.keys().isdisjoint(order):
            continue
        metadata[part] = json.dumps(_CLASSES[part])
        for i, name in enumerate(order):
            one, (out, width) = written.get(name), table(str(context.family))[name]
            tensors[f"{part}:{i}:up"] = _zeros((out, 1), like) if one is None else one.up
            tensors[f"{part}:{i}:down"] = _zeros((1, width), like) if one is None else one.down
            metadata[f"{part}:{i}:rank"] = str(1 if one is None else one.rank)
    for token, vectors in adapter.embeddings.items():
        rows = vectors.get("text_encoder")
        if rows is None or len(vectors) > 1 or (rows.ndim == 2 and rows.shape[0] != 1):
            losses.append(f"{token}: cloneofsimo files hold one vector a token, for one text encoder")
            continue
        tensors[token] = reshaped(rows, (int(rows.shape[-1]),))
        metadata[token] = _EMBED
    return Encoded(tensors, dict(sorted(metadata.items())), tuple(losses))


def _written_order(part: str, family: str | None) -> tuple[str, ...]:
    if family not in _FAMILIES:
        return ()
    return unet_order() if part == "unet" else text_order(4 * FAMILIES[family].texts["text_encoder"].layers)


def _zeros(shape: Shape, like: Array) -> Array:
    if is_torch(like):
        return like.new_zeros(shape)
    return cast(np.zeros(shape, np.float32), dtype_of(like))
