"""PEFT's `PeftModel.from_pretrained`, one part of a pipeline at a time."""

from __future__ import annotations

VERSION = "PEFT 0.21.2, run"
READS = frozenset({"peft"})
KINDS: dict[str, str] = {}
NAMES: tuple[tuple[str, str], ...] = ()
