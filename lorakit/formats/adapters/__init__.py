"""Adapter formats, one codec a module. A codec never opens a file and never applies a scale while reading.

A codec's module defines
    matches(shapes, metadata)       whether a file with these keys (to shapes) is of this format; exactly one codec
                                    matches a file
    decode(tensors, metadata)       the adapter; what does not fit is in its `faults` and `unknown`, nothing is dropped
    encode(adapter, context)        `Encoded`, for the formats that lorakit writes; what the format cannot hold is in
                                    its `losses`, nothing is dropped in silence
    DORA                            of those: "output" or "input", what of a weight a DoRA has lengths of, so that the
                                    programs that read the format apply it
"""

from __future__ import annotations

from collections.abc import Mapping

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.errors import InputError, by_reason, some
from lorakit.registry import ADAPTER_FORMATS


def sniff(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> str | None:
    """The name of the format of a file with these keys and shapes; None where there is none."""
    from lorakit.formats.adapters import _marks

    return _marks.first({key: tuple(x.shape) for key, x in tensors.items()}, metadata)


def decode(tensors: Mapping[str, Array], metadata: Mapping[str, str], source: str) -> Adapter:
    """The adapter in `tensors`, whatever its format, with its faults; InputError naming `source` where no format fits."""
    from lorakit.formats import foreign
    from lorakit.formats.adapters import _bundle

    foreign.check_adapter(tensors, source)
    plain, embeddings = _bundle.split(tensors)
    name = sniff(plain, metadata) if plain else None
    if name is None and not embeddings:
        first = next(iter(tensors), "nothing")
        raise InputError(f"{source}: no adapter format has such keys (first: {first})")
    adapter = (
        ADAPTER_FORMATS[name].decode(plain, metadata)
        if name
        else Adapter(modules={}, metadata=metadata, format="kohya")
    )
    return _bundle.joined(adapter, embeddings)


def checked(adapter: Adapter, source: str) -> Adapter:
    """The adapter if nothing is wrong with it; InputError that counts the faulty and the unknown keys and names the first
    ones of each fault."""
    wrong = [*adapter.faults, *(f"{key}: belongs to nothing" for key in adapter.unknown)]
    if wrong:
        lines = [f"{some(keys, 4)}: {what}" if what else some(keys, 4) for what, keys in by_reason(wrong).items()]
        told = "1 key is" if len(wrong) == 1 else f"{len(wrong)} keys are"
        raise InputError(f"{source}: {told} wrong: {some(lines, 4, '; ')}")
    return adapter
