"""PyTorch's pickles (.pt, .pth, .bin, .ckpt): read without running anything that is in them.

A pickle is a program. Its opcodes are listed first, which executes nothing, and a file that asks for anything but the
parts of tensors is refused by name. What is left is read by torch's own restricted unpickler, and what comes out is
looked over for tensors that are larger than the file.
"""

from __future__ import annotations

import io
import os
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lorakit.errors import InputError
from lorakit.io.header import shown
from lorakit.io.inputs import open_to_read

if TYPE_CHECKING:
    from torch import Tensor

_MAX_PICKLE = 16 << 20  # without the tensors, which lie outside it
_MAX_OPCODES = 5_000_000
_MAX_OBJECTS = 1_000_000  # a few lists that hold each other twice make any number
_MAX_DEPTH = 32
_SLACK = 1 << 20
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_PARAMETER_DICT = "torch.nn.modules.container.ParameterDict"
_HARMLESS = re.compile(
    r"collections\.OrderedDict|(?:builtins|__builtin__)\.set"
    r"|torch\.(?:Size|device|(?:Bool|Byte|Char|Short|Int|Long|Half|BFloat16|Float|Double)Storage)"
    r"|torch\.(?:bool|b?float\d+\w*|u?int\d+)|torch\.storage\.(?:Untyped|Typed)Storage"
    r"|torch\._utils\._rebuild_(?:tensor|tensor_v2|tensor_v3|parameter)"
    rf"|{re.escape(_PARAMETER_DICT)}"
)
_DAMAGED = (ValueError, LookupError, OverflowError, EOFError, struct.error, zipfile.BadZipFile, zlib.error)


class _ParameterDict:
    """Stands for torch's, which old embeddings hold; a bag for its attributes."""


def is_pickle(path: str | Path, what: str = "file") -> bool:
    """Whether the content is a pickle or a zip archive, whatever the name says."""
    with _opened(Path(path), what) as handle:
        head = handle.read(9)
        size = os.fstat(handle.fileno()).st_size
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return False  # safetensors: a header of 640 bytes begins as a pickle does, one of 19,280 as a zip archive
    return head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"))


def read(path: str | Path, what: str = "checkpoint") -> Any:
    """The dicts, lists, tensors, numbers and text of a file; InputError, which names it, where it holds anything else."""
    file = Path(path)
    if not is_pickle(file, what):
        raise InputError(f"{file} is not a PyTorch pickle; expected {what}")
    with _opened(file, what) as handle:
        try:
            wanted = _globals(handle)
        except InputError as error:
            raise InputError(f"{file} {error}") from None
        except _DAMAGED as error:
            raise InputError(f"{file} is damaged or was cut short: no whole pickle in it") from error
        except (OSError, NotImplementedError, RuntimeError) as error:
            raise InputError(f"{file} could not be read: {error}") from error
        if code := [name for name in wanted if not _HARMLESS.fullmatch(name)]:
            raise InputError(f"{file} contains code: {', '.join(map(shown, code[:5]))}; refused")
        tree = _load(file, handle)
    try:
        _check_tensors(tree)
    except InputError as error:
        raise InputError(f"{file} {error}") from None
    return tree


METADATA = "__metadata__"  # texts beside a model's tensors, as a safetensors file has them


def state(tree: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, texts) of a checkpoint, whose tensors may stand below `state_dict` with other things beside them."""
    texts: dict[str, str] = {}
    while isinstance(tree, dict) and isinstance(tree.get("state_dict"), dict):
        notes = tree.get(METADATA)
        if isinstance(notes, dict):
            texts |= {str(key): value for key, value in notes.items() if isinstance(value, str)}
        tree = tree["state_dict"]
    tensors, inner = flatten(tree)
    return tensors, inner | texts


def flatten(tree: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, texts) by dotted path: "string_to_param.*"; a list's members are "0", "1" ...; None is left out.

    Numbers and text become text, and so do the token numbers of an embedding's `string_to_token`, tensors or not.
    InputError where two paths are the same.
    """
    import torch

    tensors: dict[str, Tensor] = {}
    texts: dict[str, str] = {}
    for path, leaf in _leaves([tree] if isinstance(tree, torch.Tensor) else tree):
        name = ".".join(path)
        if name in tensors or name in texts:
            raise InputError(f"two values are named {shown(name)}")
        if not isinstance(leaf, torch.Tensor):
            texts[name] = str(leaf)
        elif "string_to_token" in path[:-1] and leaf.numel() == 1 and not leaf.is_floating_point():
            texts[name] = str(int(leaf))
        else:
            tensors[name] = leaf.detach()
    return tensors, texts


def _opened(file: Path, what: str) -> IO[bytes]:
    return os.fdopen(open_to_read(file, what), "rb")


def _globals(handle: IO[bytes]) -> list[str]:
    """What a file's pickles ask for by name; executes none. A zip bomb is refused before it is unpacked."""
    names: dict[str, None] = {}
    size = os.fstat(handle.fileno()).st_size
    if handle.read(2) == b"PK":
        with zipfile.ZipFile(handle) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > size + _SLACK:
                raise InputError(f"unpacks to {total} bytes, and the file has {size}; refused")
            if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
                raise InputError("is a zip archive of a kind that PyTorch does not write; refused")
            pickles = [member for member in members if member.filename.lower().endswith(".pkl")]
            if not any(member.filename.rpartition("/")[2] == "data.pkl" for member in pickles):
                raise InputError("is a zip archive, but not PyTorch's: there is no data.pkl in it")
            if sum(member.file_size for member in pickles) > _MAX_PICKLE:
                raise InputError(f"has a pickle of more than {_MAX_PICKLE} bytes; refused")
            for member in pickles:
                names |= dict.fromkeys(_asked(io.BytesIO(archive.read(member))))
        return list(names)
    handle.seek(0)
    start = io.BytesIO(handle.read(_MAX_PICKLE))
    magic: list[Any] = []
    first = list(_asked(start, magic))
    if first or magic != [_LEGACY_MAGIC]:
        if all(map(_HARMLESS.fullmatch, first)):
            raise InputError("is a plain pickle, not a file of PyTorch's")
        return first
    for _ in range(4):  # the old layout: magic, protocol, system, the objects, the names of what follows
        names |= dict.fromkeys(_asked(start))
    return list(names)


def _asked(pickle: IO[bytes], integers: list[Any] | None = None) -> Iterator[str]:
    """The names of one pickle as "module.name"; long integers, for the magic number, are added to `integers`."""
    recent: list[str] = ["?", "?"]  # the text pushed last, for a name that is made of two strings
    memo: dict[Any, str] = {}
    pushed = "?"
    for number, (opcode, value, _) in enumerate(pickletools.genops(pickle)):
        if number > _MAX_OPCODES:
            raise InputError(f"has a pickle of more than {_MAX_OPCODES} steps; refused")
        kind = opcode.name
        if kind in ("GLOBAL", "INST"):
            yield str(value).replace(" ", ".", 1)
        elif kind == "STACK_GLOBAL":
            yield ".".join(recent[-2:])
        elif kind.startswith("EXT"):
            yield f"extension {value}"
        elif kind == "MEMOIZE" or "PUT" in kind:
            memo[len(memo) if value is None else value] = pushed
            continue
        elif kind == "LONG1" and integers is not None:
            integers.append(value)
        pushed = memo.get(value, "?") if "GET" in kind else value if isinstance(value, str) else "?"
        if isinstance(value, str) or "GET" in kind:
            recent = [recent[-1], pushed]


def _load(file: Path, handle: IO[bytes]) -> Any:
    import torch

    handle.seek(0)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([(_ParameterDict, _PARAMETER_DICT)]):
            warnings.simplefilter("ignore")  # they ask the user to report the file to PyTorch
            # weights_only is said, so that TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD has no say.
            return torch.load(handle, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:  # noqa: BLE001 - what is in the file decides what is raised
        # torch's own text advises to load the file without the safeguard
        kind = "holds what is not tensors, numbers or text" if "Unpickling" in type(error).__name__ else "is damaged"
        raise InputError(f"{file} {kind} ({type(error).__name__}); refused") from None


def _leaves(tree: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, tensor, number or text) in order; InputError where there are too many, or something else."""
    import torch

    stack: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    count = 0
    while stack:
        path, value = stack.pop()
        if isinstance(value, _ParameterDict):
            value = vars(value).get("_parameters")
        if isinstance(value, list | tuple | set) and not isinstance(value, torch.Size):
            value = dict(enumerate(sorted(value, key=str) if isinstance(value, set) else value))
        if isinstance(value, dict):
            if odd := [key for key in value if not isinstance(key, str | int)]:
                raise InputError(f"has a key that is no text: {shown(str(odd[0]))}")
            count += len(value)
            if count > _MAX_OBJECTS or len(path) > _MAX_DEPTH:
                raise InputError(f"holds more than {_MAX_OBJECTS} objects, or itself; refused")
            stack += [((*path, str(key)), member) for key, member in reversed(value.items())]
        elif isinstance(value, torch.Tensor | str | bool | int | float | torch.Size | torch.dtype | torch.device):
            yield path, value
        elif value is not None:
            raise InputError(f"holds a {type(value).__name__} at {shown('.'.join(path))}; refused")


def _check_tensors(tree: Any) -> None:
    """Refuses paths that are the same, and tensors that would be larger written than they are here."""
    import torch

    names: set[str] = set()
    for path, leaf in _leaves(tree):
        name = ".".join(path)
        if name in names:
            raise InputError(f"has two values named {shown(name)}")
        names.add(name)
        if not isinstance(leaf, torch.Tensor):
            continue
        if leaf.layout is not torch.strided or leaf.device.type != "cpu" or leaf.is_quantized:
            raise InputError(f"holds a tensor of a kind that lorakit does not read: {shown(name)}")
        held = leaf.untyped_storage().nbytes()
        if leaf.numel() * leaf.element_size() > held:
            raise InputError(f"has {shown(name)} of {list(leaf.shape)} over {held} bytes; refused")
