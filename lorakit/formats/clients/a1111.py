"""A1111's web UI, and Forge's older builds."""

from __future__ import annotations

from lorakit.adapter import Adapter
from lorakit.formats.clients import output_axis

VERSION = "network.py as of 2026, read and not run"
READS = frozenset({"kohya"})
KINDS: dict[str, str] = {}
NAMES: tuple[tuple[str, str], ...] = ()


def spoiled(adapter: Adapter) -> dict[str, str]:
    return dict.fromkeys(output_axis(adapter), "takes every DoRA by input column: a wrong matrix for this one")
