"""safetensors files: tensors read one at a time, and a writer whose same content is the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any

from lorakit import naming
from lorakit.arrays import SIZES, Array, Stored, dtype_of, finite, stored
from lorakit.errors import InputError, NumericError
from lorakit.io.files import replacing
from lorakit.io.header import MAX_HEADER, Entry, Header, parse_header, shown
from lorakit.io.inputs import open_to_read
from lorakit.io.reader import Reader
from lorakit.runtime.platform import BINARY

__all__ = ["Header", "OpenFile", "check", "data_hash", "open_file", "parse_header", "write"]

_PIECE = 1 << 20
_AHEAD = 16  # pieces
_SENT = 1 << 26  # bytes
HASHES = ("modelspec.hash_sha256", "sshs_model_hash")


class OpenFile(Mapping[str, Stored]):
    """A file whose tensors are read when their bytes are asked for; needs no closing, and no keeping either."""

    def __init__(self, path: Path, reader: Reader, size: int, header: Header) -> None:
        self.path, self.size, self.header = path, size, header
        self._reader = reader

    @property
    def metadata(self) -> dict[str, str]:
        return self.header.metadata

    def __getitem__(self, key: str) -> Stored:
        dtype, shape, begin, end = self.header.entries[key]
        start, read = self.header.data_start + begin, self._reader.read
        return Stored(dtype, shape, partial(read, start, end - begin), lambda a, b: read(start + a, b - a))

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.entries)

    def __len__(self) -> int:
        return len(self.header.entries)

    def data_hash(self) -> str:
        """sha256 of the data, as hex: what `modelspec.hash_sha256` and `sshs_model_hash` say."""
        digest = hashlib.sha256()
        for at in range(self.header.data_start, self.size, _PIECE):
            digest.update(self._reader.read(at, min(_PIECE, self.size - at)))
        return digest.hexdigest()


def open_file(path: str | Path, what: str = "safetensors file") -> OpenFile:
    """Reads the header alone; InputError, which names the file, where it is not as it should be."""
    file = Path(path)
    reader = Reader(file, open_to_read(file, what))
    size = os.fstat(reader.fd).st_size
    head = bytes(reader.read(0, min(size, 512)))
    length = int.from_bytes(head[:8], "little")
    if len(head) - 8 < length <= min(MAX_HEADER, size - 8):
        head = bytes(reader.read(0, 8 + length))
    try:
        return OpenFile(file, reader, size, parse_header(head, size))
    except InputError as error:
        raise InputError(f"{file} {error}") from None


def data_hash(path: str | Path) -> str:
    return open_file(path).data_hash()


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _spelled(entries: str, metadata: Mapping[str, str]) -> bytes:
    """The file's first bytes; `entries` is the JSON of their object."""
    notes = f'"__metadata__":{_json(dict(sorted(metadata.items())))}' if metadata else ""
    text = f"{{{notes}{',' if notes and entries != '{}' else ''}{entries[1:]}".encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _layout(tensors: Mapping[str, Array]) -> dict[str, Entry]:
    """The entries in the order in which they are written: wide types first, so that all are aligned, then by name."""
    kinds = {}
    for name, tensor in tensors.items():
        try:
            kinds[name] = dtype_of(tensor)
        except KeyError:
            raise InputError(f"cannot hold {shown(name)}: safetensors has no dtype {tensor.dtype}") from None
    entries, at = {}, 0
    for name in sorted(kinds, key=lambda name: (-SIZES[kinds[name]], name)):
        shape = tuple(tensors[name].shape)
        end = at + prod(shape) * SIZES[kinds[name]]
        entries[name] = (kinds[name], shape, at, end)
        at = end
    return entries


def _same(x: Any) -> Any:
    return x


def _pieces(tensors: Mapping[str, Array], entries: Mapping[str, Entry], bad: list[str]) -> Iterator[Any]:
    """The data in order, in pieces of about a MiB; a tensor is read once, and none is kept.

    Names of tensors that are not finite are added to `bad`; after the first nothing more is given.
    """
    small: list[Any] = []
    held = 0
    for name, (dtype, _, begin, end) in entries.items():
        given = 0
        for piece in stored(tensors[name]).pieces(_PIECE):
            given += len(piece)
            if not finite(Stored(dtype, (len(piece) // SIZES[dtype],), partial(_same, piece))):
                bad.append(name)
                break
            small.append(piece)
            held += len(piece)
            if held >= _PIECE and not bad:
                yield small[0] if len(small) == 1 else b"".join(small)
            if held >= _PIECE or bad:
                small, held = [], 0
        if given != end - begin and name not in bad:
            raise ValueError(f"{name} has {given} bytes, not {end - begin}")
    if small and not bad:
        yield b"".join(small)


def _ahead(pieces: Iterator[Any]) -> Generator[Any]:
    """The same pieces, read or worked out in a thread while the ones before are written."""
    queue, stop = Queue[Any](maxsize=_AHEAD), Event()

    def run() -> None:
        try:
            for piece in pieces:
                queue.put(piece)
                if stop.is_set():
                    return
        finally:
            queue.put(None)

    with ThreadPoolExecutor(1, "read ahead") as pool:
        work = pool.submit(run)
        try:
            while (piece := queue.get()) is not None:
                yield piece
            work.result()  # what went wrong in there is raised here
        finally:
            stop.set()
            while not work.done():
                with suppress(Empty):
                    queue.get(timeout=0.01)


@contextmanager
def _hashing(wanted: bool) -> Iterator[tuple[Callable[[Any], None], Callable[[], str]]]:
    """(update, hexdigest) of a sha256 that is taken in a thread, a few pieces behind; hashlib lets go of the GIL."""
    if not wanted:
        yield lambda piece: None, lambda: ""
        return
    digest, queue = hashlib.sha256(), Queue[Any](maxsize=4)

    def run() -> None:
        for piece in iter(queue.get, None):
            digest.update(piece)

    thread = Thread(target=run, name="sha256", daemon=True)
    thread.start()

    def finish() -> str:
        queue.put(None)
        thread.join()
        return digest.hexdigest()

    try:
        yield queue.put, finish
    finally:
        if thread.is_alive():
            queue.put(None)
            thread.join()


def _write_all(fd: int, piece: Any) -> int:
    left = memoryview(piece)
    while left:
        left = left[os.write(fd, left) :]
    return len(piece)


def _send_on(fd: int, begin: int, end: int) -> None:
    """Have the system begin to store a stretch that is written, so that the sync at the end has little to wait for."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, begin, end - begin, os.POSIX_FADV_DONTNEED)


@dataclass(frozen=True)
class _PlannedFile:
    """A file that nothing is wrong with but, maybe, numbers that are not finite."""

    entries: dict[str, Entry]
    spelled: str
    notes: dict[str, str]

    def head(self, hashes: Mapping[str, str]) -> bytes:
        return _spelled(self.spelled, {**self.notes, **hashes})


def _planned(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> _PlannedFile:
    # A hash of what the tensors came from is wrong here. Of the two kinds, sshs_legacy_hash cannot be made again: it
    # is of a stretch of the file as its first writer would have spelled it without the other metadata.
    notes = naming.spelled({key: value for key, value in metadata.items() if key not in (*HASHES, "sshs_legacy_hash")})
    try:
        entries = _layout(tensors)
        fields = ({"dtype": kind, "shape": shape, "data_offsets": span} for kind, shape, *span in entries.values())
        planned = _PlannedFile(entries, _json(dict(zip(entries, fields, strict=True))), notes)
        head = planned.head(_hashes("0" * 64))
        parse_header(head, len(head) + max((end for _, _, _, end in entries.values()), default=0))
    except InputError as error:
        raise InputError(f"{path}: the file to be written {error}") from None
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: a name or a note in the metadata is no text: {error.object[:80]!a}") from None
    return planned


def _hashes(digest: str) -> dict[str, str]:
    return {"modelspec.hash_sha256": f"0x{digest}", "sshs_model_hash": digest}


def _check_finite(path: Path, bad: Sequence[str]) -> None:
    if bad:
        raise NumericError(f"{path}: NaN or infinity in {len(bad)} tensors, first {shown(bad[0])}; nothing was written")


def check(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Raise what `write` would raise over these tensors and this metadata; nothing is written."""
    planned, bad = _planned(path, tensors, metadata), list[str]()
    for _ in _pieces(tensors, planned.entries, bad):
        pass
    _check_finite(path, bad)


def write(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str], *, hashed: bool = True) -> str:
    """Write a file whole or not at all; the same content gives the same bytes.

    hashed  the data's sha256 goes into the metadata, as `modelspec.hash_sha256` and `sshs_model_hash`
    gives   that hash as hex, or "" where it was not asked for
    raises  NumericError that names the first tensor with NaN or infinity; InputError for what safetensors cannot
            hold; StorageError. What was at `path` before then stays.
    """
    planned, bad = _planned(path, tensors, metadata), list[str]()
    head = planned.head(_hashes("0" * 64) if hashed else {})
    with replacing(path) as temporary:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | BINARY, 0o666)
        try:
            with _hashing(hashed) as (update, hexdigest):
                at = sent = _write_all(fd, head)
                with closing(_ahead(_pieces(tensors, planned.entries, bad))) as pieces:
                    for piece in pieces:
                        update(piece)
                        at += _write_all(fd, piece)
                        if at - sent >= _SENT:
                            _send_on(fd, sent, at)
                            sent = at
                _check_finite(path, bad)
                found = hexdigest()
            if hashed:
                os.lseek(fd, 0, os.SEEK_SET)
                _write_all(fd, planned.head(_hashes(found)))
        finally:
            os.close(fd)
    return found
