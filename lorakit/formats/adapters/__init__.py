"""One module a format, each with `matches(keys)`, `decode(tensors, metadata)` and `encode(adapter)`.

Readers never apply a scale; writers write the rank as alpha, a number every client reads exactly.
"""

from collections.abc import Mapping

from torch import Tensor

from lorakit.adapter import Adapter
from lorakit.errors import InputError
from lorakit.registry import ADAPTER_FORMATS


def decode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: str) -> Adapter:
    """The adapter in `tensors`, whatever its format; InputError naming `source` where no format fits."""
    for name in ADAPTER_FORMATS.names():
        codec = ADAPTER_FORMATS[name]
        if codec.matches(tensors.keys()):
            try:
                return codec.decode(tensors, metadata)
            except InputError as error:
                raise InputError(f"{source}: {error}") from error
    first = next(iter(tensors), "nothing")
    raise InputError(f"{source}: no adapter format that lorakit reads yet has such keys (first: {first})")
