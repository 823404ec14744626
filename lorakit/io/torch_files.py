"""The safetensors layer for those who calculate with torch: all of a file at once."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lorakit.arrays import Array
from lorakit.io import safetensors


def read(path: str | Path, what: str = "safetensors file") -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a file."""
    file = safetensors.open_file(path, what)
    return {key: stored.tensor() for key, stored in file.items()}, file.metadata


def save(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str], hashed: bool = True) -> None:
    """Write them whole; NumericError names the first that is not finite, and nothing is written."""
    safetensors.write(path, tensors, metadata, hashed=hashed)
