"""The same adapters with a class prior, so that the class keeps its looks (Ruiz et al., 2023)."""

from lorakit.modes.lora import begin

ADAPTERS = True

__all__ = ["ADAPTERS", "begin"]
