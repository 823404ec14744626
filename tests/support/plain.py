"""Adapters as plain low-rank deltas over torch tensors, whatever their format."""

from dataclasses import replace
from pathlib import Path

from lorakit.adapter import Adapter
from lorakit.deltas.low_rank import plain
from lorakit.formats import files


def load(file: Path) -> Adapter:
    adapter = files.read(file).materialised()
    return replace(adapter, modules={name: plain(delta) for name, delta in adapter.modules.items()})
