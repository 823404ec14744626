"""PyTorch's .ckpt and .pt files, written one tensor at a time: what torch.load(weights_only=True) reads."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from lorakit.arrays import Stored, dtype_of, finite, raw
from lorakit.errors import NumericError
from lorakit.io.files import replacing
from lorakit.io.pickles import METADATA

_STORAGES = {
    "F16": "HalfStorage",
    "BF16": "BFloat16Storage",
    "F32": "FloatStorage",
    "F64": "DoubleStorage",
    "I64": "LongStorage",
    "I32": "IntStorage",
    "I16": "ShortStorage",
    "I8": "CharStorage",
    "U8": "ByteStorage",
    "BOOL": "BoolStorage",
}
_ALIGN = 64  # as PyTorch does, so that the file can be mapped


def bytes_of(data: Any) -> Any:
    return data


class _Storage:
    """Stands for a tensor's memory in the pickle."""

    def __init__(self, number: int, x: Stored) -> None:
        self.number, self.dtype, self.count = number, x.dtype, prod(x.shape)


class _Tensor:
    def __init__(self, storage: _Storage, shape: tuple[int, ...]) -> None:
        self.storage, self.shape = storage, shape

    def __reduce__(self) -> tuple[Any, ...]:
        from torch._utils import _rebuild_tensor_v2

        strides = tuple(prod(self.shape[i + 1 :]) for i in range(len(self.shape)))
        return _rebuild_tensor_v2, (self.storage, 0, self.shape, strides, False, OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _Storage):
            return None
        import torch

        return "storage", getattr(torch, _STORAGES[obj.dtype]), str(obj.number), "cpu", obj.count


def write(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> None:
    """{"state_dict": tensors} with the metadata beside it, whole or not at all; the same content gives the same bytes.

    raises  NumericError that names the first tensor with NaN or infinity
    """
    notes = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    write_tree(path, {"state_dict": {name: tensors[name] for name in sorted(tensors)}, **notes})


def write_tree(path: Path, tree: Mapping[str, Any]) -> None:
    """The same for dicts of dicts, tensors, numbers, text and None, in the order that they have."""
    held: list[tuple[str, Stored]] = []

    def placed(name: str, node: Any) -> Any:
        if isinstance(node, Mapping):
            return {key: placed(key, value) for key, value in node.items()}
        if node is None or isinstance(node, str | int):
            return node
        x = node if isinstance(node, Stored) else Stored(dtype_of(node), tuple(node.shape), partial(raw, node))
        held.append((name, x))
        return _Tensor(_Storage(len(held) - 1, x), x.shape)

    pickled = io.BytesIO()
    _Pickler(pickled, protocol=2).dump(placed("", tree))
    with replacing(path) as unfinished, zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "archive/data.pkl", pickled.getvalue())
        _add(archive, "archive/byteorder", b"little")
        for i, (name, x) in enumerate(held):
            data = x.raw()
            if not finite(Stored(x.dtype, x.shape, partial(bytes_of, data))):
                raise NumericError(f"{path}: NaN or infinity in {name}; nothing was written")
            _add(archive, f"archive/data/{i}", data)
        _add(archive, "archive/version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, data: Any) -> None:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    assert archive.fp is not None
    begin = archive.fp.tell() + 30 + len(name) + 4  # a local header, its name, and the head of the padding
    pad = -begin % _ALIGN
    info.extra = b"FB" + pad.to_bytes(2, "little") + b"Z" * pad
    archive.writestr(info, data)
