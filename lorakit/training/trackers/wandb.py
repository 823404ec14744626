"""Weights & Biases; offline, into RUN/wandb, unless WANDB_MODE says otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorakit.runtime.extras import need

NEEDS = ("wandb", "wandb", "--track wandb")


class _WeightsAndBiases:
    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        wandb = need(*NEEDS)
        mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        self._run = wandb.init(project="lorakit", dir=str(folder), config=dict(config), mode=mode)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


def start(run_folder: Path, config: Mapping[str, Any]) -> _WeightsAndBiases:
    return _WeightsAndBiases(run_folder, config)
