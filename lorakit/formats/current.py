"""Whether a file is spelled as its format is written today: only then its very bytes are what a conversion to it gives."""

from __future__ import annotations

from lorakit.adapter import Adapter
from lorakit.formats.codec import Context
from lorakit.registry import ADAPTER_FORMATS
from lorakit.spellings import parse


def is_current(adapter: Adapter, context: Context) -> bool:
    """Whether every key of every module begins with a name that its codec gives the module, and ends in a factor as the
    codec spells it. Formats that have but one spelling say nothing of it."""
    codec = ADAPTER_FORMATS[adapter.format]
    if not hasattr(codec, "stems_of"):
        return True
    stems_of = codec.stems_of(adapter, context)
    for module, keys in adapter.spelled.items():
        stems = stems_of(module)
        for key in keys:
            spelled = parse(key.rpartition("/")[2])
            own = spelled.ending in codec.ENDINGS if codec.ENDINGS else spelled.ending == spelled.factor
            if not own or key.rpartition("/")[2].removesuffix(f".{spelled.ending}") not in stems:
                return False
    return True
