"""TensorBoard event files in RUN/tensorboard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorakit.runtime.extras import need

NEEDS = ("tensorboard", "tensorboard", "--track tensorboard")


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        need(*NEEDS)
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def start(run_folder: Path, config: Mapping[str, Any]) -> _TensorBoard:
    return _TensorBoard(run_folder / "tensorboard")
