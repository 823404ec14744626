"""The safetensors layer for those who calculate with torch: one tensor at a time, or all of a file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from lorakit.arrays import Array
from lorakit.io import safetensors

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Opened:
    """An open file; each tensor asked for is read anew."""

    def __init__(self, file: safetensors.OpenFile) -> None:
        self._file = file

    def keys(self) -> list[str]:
        return list(self._file)

    def get_tensor(self, key: str) -> Tensor:
        return self._file[key].tensor()

    def metadata(self) -> dict[str, str]:
        return self._file.metadata


@contextmanager
def opened(path: str | Path, what: str = "safetensors file") -> Iterator[Opened]:
    """An open file whose tensors are read when asked for; InputError where it is not one."""
    yield Opened(safetensors.open_file(path, what))


def read(path: str | Path, what: str = "safetensors file") -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a file."""
    file = safetensors.open_file(path, what)
    return {key: stored.tensor() for key, stored in file.items()}, file.metadata


def save(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str], hashed: bool = True) -> None:
    """Write them whole; NumericError names the first that is not finite, and nothing is written."""
    safetensors.write(path, tensors, metadata, hashed=hashed)
