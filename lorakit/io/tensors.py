"""The safetensors layer: headers without tensors, tensors one at a time, files written whole."""

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from lorakit.errors import InputError, NumericError
from lorakit.io.files import existing_file, replacing

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def _checked(path: str | Path, what: str) -> Path:
    file = existing_file(path, what)
    with file.open("rb") as handle:
        head = handle.read(9)
    # A header of 640 bytes begins as a pickle does, so look for the brace that follows the length first.
    whole = len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] <= file.stat().st_size - 8
    if whole:
        return file
    if head[:1] == b"\x80" or head[:2] == b"PK" or file.suffix in (".pt", ".pth", ".ckpt", ".bin"):
        raise InputError(f"{file} is a pickle, which could run code; lorakit reads safetensors only: convert it first")
    raise InputError(f"{file} is not a safetensors file, or was cut short")


@contextmanager
def opened(path: str | Path, what: str = "safetensors file") -> Iterator[safetensors.safe_open]:
    """An open file whose tensors are read when asked for; InputError where it is not one."""
    file = _checked(path, what)
    try:
        with safetensors.safe_open(file, "pt") as handle:
            yield handle
    except safetensors.SafetensorError as error:
        raise InputError(f"{file} is damaged: {error}") from error


def read(path: str | Path, what: str = "safetensors file") -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a file."""
    with opened(path, what) as handle:
        return {key: handle.get_tensor(key) for key in handle.keys()}, handle.metadata() or {}  # noqa: SIM118


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write sorted, contiguous tensors; NumericError names those that are not finite, and nothing is written."""
    bad = [key for key, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise NumericError(f"{path}: NaN or infinity in {len(bad)} tensors, first {bad[0]}; nothing was written")
    whole = {key: tensors[key].detach().cpu().contiguous() for key in sorted(tensors)}
    with replacing(path) as partial:
        save_file(whole, partial, metadata=dict(metadata))
        _sort_metadata(partial)


def _sort_metadata(file: Path) -> None:
    """The library writes metadata in an order of its own at each run; the same content must be the same bytes."""
    with file.open("r+b") as handle:
        size = struct.unpack("<Q", handle.read(8))[0]
        header = json.loads(handle.read(size))
        if "__metadata__" in header:
            header = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            if len(text) <= size:  # else a character was escaped otherwise; the file is valid as it is
                handle.seek(8)
                handle.write(text.ljust(size))
