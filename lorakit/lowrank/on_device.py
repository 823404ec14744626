"""A dense delta on a GPU: the same products, and what is narrow comes back to the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorakit.arrays import Stored
from lorakit.lowrank.dense import DenseDelta

_SUMMED = 4096


class OnDevice(DenseDelta):
    """`DenseDelta` over a torch tensor in float32, on any device. TF32 is not used: proofs need the digits."""

    delta: Tensor
    x: Tensor

    def through(self, vectors: np.ndarray) -> np.ndarray:
        return self._host(self.x @ self._there(vectors))

    def rows(self, basis: np.ndarray) -> Tensor:
        return self._there(basis).T @ self.x

    def image(self, basis: np.ndarray) -> tuple[Tensor, np.ndarray]:
        rows = self.rows(basis)
        return rows, self._host(self.x @ rows.T)

    def combined(self, turn: np.ndarray, rows: list[Any]) -> np.ndarray:
        return self._host(self._there(turn).T @ torch.cat(rows))

    def inner(self, rows: Tensor) -> np.ndarray:
        wide = rows.double()
        return (wide @ wide.T).cpu().numpy()

    def gram(self) -> np.ndarray:
        total = torch.zeros((self.p, self.p), dtype=torch.float64, device=self.x.device)
        for piece in self.x.split(_SUMMED, 1):
            wide = piece.double()
            total += wide @ wide.T
        return total.cpu().numpy()

    def remainder(self, left: np.ndarray, right: np.ndarray) -> float:
        rest = self.x - self._there(left) @ self._there(right)
        return float(rest.double().square().sum())

    def _squared(self) -> float:
        return float(self.delta.double().square().sum())

    def _there(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(self.x.device)

    @staticmethod
    def _host(x: Tensor) -> np.ndarray:
        return x.cpu().numpy()


def device(name: str) -> torch.device:
    return torch.device(name)


def difference(tuned: Stored, base: Stored, device: torch.device) -> Tensor | None:
    """tuned - base [n] in float32 on the device; None where they hold the same, ValueError where one is not finite.

    The bytes travel as the files have them: half as many as of float32.
    """
    values = [x.tensor().to(device).float().reshape(-1) for x in (tuned, base)]
    delta = values[0] - values[1]
    if not bool(torch.stack([x.isfinite().all() for x in values]).all()):
        raise ValueError("NaN or infinity")
    return delta if bool(delta.any()) else None
