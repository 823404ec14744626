"""PEFT's `PeftModel.from_pretrained`, one part of a pipeline at a time."""

from __future__ import annotations

from dataclasses import replace

from lorakit.adapter import Adapter
from lorakit.formats.adapters.peft import ENDINGS, WITHOUT_SETTINGS
from lorakit.formats.clients import deaf, deaf_to, named
from lorakit.spellings import Spelled, parse

VERSION = "PEFT 0.21.2 with transformers 5.24, run"
KINDS: dict[str, str] = {}
_PREFIX = "base_model.model."


def unread(spelled: Spelled, module: str, family: str | None) -> str:
    """A part's modules are named as in the model, whose CLIPTextModel has no `text_model.` since transformers 5.6."""
    key = spelled.key.rpartition("/")[2]
    inside = replace(parse(key), key=key)
    part, _, path = module.partition(".")
    own = path.removeprefix("text_model.") if part == "text_encoder" else path
    if named(inside) != f"{_PREFIX}{own}":
        return deaf(inside) if not key.startswith(_PREFIX) else "drops it: the model has no module of this name"
    return "" if inside.ending in ENDINGS else deaf_to(inside.ending)


def spoiled(adapter: Adapter, family: str | None) -> dict[str, str]:
    if not any(note.endswith(WITHOUT_SETTINGS) for note in adapter.notes):
        return {}
    return dict.fromkeys([*adapter.modules, *adapter.biases], "reads no file without its adapter_config.json")
