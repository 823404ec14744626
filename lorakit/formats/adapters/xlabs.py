"""XLabs' LoRA of Flux: attention processors on the original's blocks, `double_blocks.0.processor.qkv_lora1.down.weight`.

Modules get diffusers' names: query, key and value of one pair share its down factor, and each has its rows of the up
factor. ByteDance's UNO and USO write the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.families import Shape
from lorakit.formats.adapters import _marks
from lorakit.formats.codec import rows_of
from lorakit.formats.dotted import KeyReading
from lorakit.spellings import parse

# Of a kind of block, what a processor's pair is called, to diffusers' modules that it acts on.
_MODULES = {
    "double": {
        "qkv_lora1": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "proj_lora1": ("attn.to_out.0",),
        "qkv_lora2": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        "proj_lora2": ("attn.to_add_out",),
    },
    "single": {"qkv_lora": ("attn.to_q", "attn.to_k", "attn.to_v"), "proj_lora": ("proj_out",)},
}
_BLOCKS = {"double": "transformer.transformer_blocks", "single": "transformer.single_transformer_blocks"}


def matches(shapes: Mapping[str, Shape], metadata: Mapping[str, str]) -> bool:
    return _marks.is_first("xlabs", shapes, metadata)


def decode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Adapter:
    reading = KeyReading()
    for key, array in tensors.items():
        found = _marks.XLABS.fullmatch(key)
        parts = _MODULES[found[1]].get(found[3], ()) if found else ()
        if found is None or not parts:
            reading.groups.unknown[key] = array
            continue
        rows = [array] if found[4] == "down" else rows_of(array, len(parts))
        if rows is None:
            reading.faults.append(f"{key}: {array.shape[0]} rows are not those of {', '.join(parts)} alike")
            continue
        for i, part in enumerate(parts):
            name = f"{_BLOCKS[found[1]]}.{found[2]}.{part}.lora_{found[4]}.weight"
            reading.add(parse(name), rows[i % len(rows)], key)
    adapter = reading.adapter(lambda part: None, metadata, "xlabs")
    return replace(
        adapter, faults=tuple(dict.fromkeys(adapter.faults))
    )  # what is wrong with a pair is so of all its modules
