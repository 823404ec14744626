"""A1111's web UI, and Forge's older builds."""

from __future__ import annotations

from lorakit.adapter import Adapter
from lorakit.deltas.dora import DoRA
from lorakit.deltas.low_rank import LowRank
from lorakit.formats.clients import output_axis

VERSION = "network.py as of 2026, read and not run"
READS = frozenset({"kohya"})
KINDS: dict[str, str] = {}
NAMES: tuple[tuple[str, str], ...] = ()


def spoiled(adapter: Adapter) -> dict[str, str]:
    scaled = [
        name
        for name, delta in adapter.modules.items()
        if isinstance(delta, DoRA) and isinstance(delta.inner, LowRank) and delta.inner.scale != 1
    ]
    wrong = dict.fromkeys(
        scaled, "applies the scale of a DoRA's factors (alpha / rank) after its lengths and not before"
    )
    return wrong | dict.fromkeys(output_axis(adapter), "takes every DoRA by input column: a wrong matrix for this one")
