"""The UNet's repeated blocks compiled, where that works; a run never ends because it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lorakit.talk import Note


def compile_blocks(unet: Any, probe: Callable[[], object], note: Note) -> bool:
    """Compile the blocks that repeat (one graph serves them all) and try a step of them; one line where it fails, and
    the UNet is as it was. Whether it worked."""
    try:
        unet.compile_repeated_blocks()
        probe()
    except Exception as error:  # noqa: BLE001  compilers raise everything; none of it is worth a run
        first = str(error).strip().splitlines() or [type(error).__name__]
        note(f"--compile: {type(error).__name__}: {first[0][:160]}; going on without it")
        torch.compiler.reset()
        for module in unet.modules():
            module._compiled_call_impl = None
        return False
    return True
