"""Arrays by key in one append-only file, for caches: thousands of entries open in milliseconds.

A file of its own for each entry costs an open, a stat and a rename each. Here a record is a head (mark, key, length,
checksum), its arrays' names and shapes as JSON, and their float32 bytes. A record is whole if its checksum says so; what a
crash or a bad disk leaves of one counts as not there, and what comes after it is found by its mark.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import numpy as np

from lorakit.errors import StorageError
from lorakit.io.files import check_own, replacing
from lorakit.io.plain import json_object
from lorakit.runtime import platform

MARK = b"\xf5lkpack\x01"
_HEAD = struct.Struct("<8s32sQII")  # mark, key, length of what follows, its checksum, checksum of the head
_PIECE = 1 << 20


def _sealed(key: bytes, body: bytes, checksum: int) -> bytes:
    head = _HEAD.pack(MARK, key, len(body), checksum, 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head)) + body


def _content(body: memoryview) -> dict[str, np.ndarray] | bytes:
    """The arrays of a record, or the key that it is another name of."""
    at = 4 + int.from_bytes(body[:4], "little")
    notes = json_object(bytes(body[4:at]))
    if "same" in notes:
        return bytes.fromhex(notes["same"])
    arrays = {}
    for name, shape in notes["arrays"]:
        arrays[name] = np.frombuffer(body, np.float32, prod(shape), at).reshape(shape)
        at += 4 * prod(shape)
    return arrays


class Pack:
    """The records of a file; it is made when the first one is put in. Keys are 32 bytes, the last record of a key counts.

    damaged     how many records were asked for and found not to be what was written
    """

    def __init__(self, path: Path) -> None:
        self.path, self.damaged = path, 0
        self._fd, self._grows = -1, False
        self._places: dict[bytes, tuple[int, int, int]] = {}  # (offset, length, checksum) of what follows the head
        self._open(os.O_RDONLY)
        self._scan()

    def _open(self, flags: int) -> None:
        if self.path.is_fifo():  # it would be waited for
            raise StorageError(f"{self.path} is a pipe, and no file; remove it")
        try:
            fd = os.open(self.path, flags | platform.BINARY, 0o666)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"{self.path} cannot be opened: {error.strerror}") from error
        self.close()
        self._fd, self._grows = fd, bool(flags & os.O_APPEND)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._grows = -1, False

    def __del__(self) -> None:
        self.close()

    def _scan(self) -> None:
        """Where the records are, from their heads alone."""
        if self._fd < 0:
            return
        at, end = 0, os.fstat(self._fd).st_size
        while at + _HEAD.size <= end:
            head = self._read(at, _HEAD.size)
            mark, key, length, checksum, own = _HEAD.unpack(head)
            if mark != MARK or own != zlib.crc32(head[:-4]):
                at = self._next_mark(at + 1, end)
                continue
            after = at + _HEAD.size + length
            if after <= end:
                self._places[key] = (at + _HEAD.size, length, checksum)
            # A record cut short has the next one within the length it tells.
            whole = after == end or self._read(after, len(MARK)) == MARK
            at = after if whole else self._next_mark(at + 1, end)

    def _next_mark(self, at: int, end: int) -> int:
        while at < end:
            found = bytes(self._read(at, _PIECE + len(MARK))).find(MARK)
            if found >= 0:
                return at + found
            at += _PIECE
        return end

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: bytes) -> dict[str, np.ndarray] | None:
        """The arrays of a key, or None where it has none that are whole."""
        for _ in range(2):  # an alias is followed once
            if (place := self._places.get(key)) is None:
                return None
            offset, length, checksum = place
            body = self._read(offset, length)
            if len(body) < length or zlib.crc32(body) != checksum:
                self.damaged += 1
                del self._places[key]
                return None
            try:
                found = _content(body)
            except (ValueError, LookupError, TypeError):  # whole, and yet nothing that `put` has written
                self.damaged += 1
                del self._places[key]
                return None
            if not isinstance(found, bytes):
                return found
            key = found
        return None

    def _read(self, offset: int, length: int) -> memoryview:
        body = np.empty(length, np.uint8).data  # writable, so that torch may take it as it is
        done = 0
        try:
            while done < length and (more := platform.read_at(self._fd, body[done:], offset + done)):
                done += more
        except OSError as error:
            raise StorageError(f"{self.path} cannot be read: {error.strerror}") from error
        return body[:done]

    def put(self, key: bytes, arrays: Mapping[str, np.ndarray]) -> None:
        """Add a record; float32 arrays."""
        notes = {"arrays": [[name, list(array.shape)] for name, array in arrays.items()]}
        data = b"".join(np.ascontiguousarray(array, np.float32).tobytes() for array in arrays.values())
        self._append(key, notes, data)

    def same(self, key: bytes, other: bytes) -> None:
        """Make `key` another name of `other`."""
        self._append(key, {"same": other.hex()}, b"")

    def _append(self, key: bytes, notes: object, data: bytes) -> None:
        text = json.dumps(notes).encode()
        text += b" " * (-(len(text) + 4) % 8)
        body = len(text).to_bytes(4, "little") + text + data
        checksum = zlib.crc32(body)
        try:
            if not self._grows:
                check_own(self.path)
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._open(os.O_RDWR | os.O_CREAT | os.O_APPEND)
            # Another process of the run may add to the same file. Where it cannot be locked, O_APPEND keeps records apart,
            # and one that was torn all the same is known by its checksum.
            platform.lock(self._fd, wait=True)
            try:
                at = platform.append(self._fd, _sealed(key, body, checksum))
            finally:
                platform.unlock(self._fd)
        except OSError as error:
            raise StorageError(f"{self.path} could not be written: {error.strerror}") from error
        self._places[key] = (at + _HEAD.size, len(body), checksum)

    def sync(self) -> None:
        """To the disk with what was put in."""
        if self._grows:
            platform.sync(self._fd)

    def compact(self, keep: Iterable[bytes]) -> bool:
        """Write the file anew with these keys alone, where they are less than half of it; whether it was done."""
        kept = set(keep)
        for key in list(kept):
            if key in self._places and (notes := self._notes(key)).get("same"):
                kept.add(bytes.fromhex(notes["same"]))
        kept &= set(self._places)
        if self._fd < 0 or 2 * sum(_HEAD.size + self._places[key][1] for key in kept) > os.fstat(self._fd).st_size:
            return False
        with replacing(self.path) as partial:
            with partial.open("wb") as file:
                for key in sorted(kept, key=lambda key: self._places[key]):
                    offset, length, checksum = self._places[key]
                    file.write(_sealed(key, bytes(self._read(offset, length)), checksum))
            self.close()  # Windows replaces no file that is open
        self._places.clear()
        self._open(os.O_RDONLY)
        self._scan()
        return True

    def _notes(self, key: bytes) -> dict[str, str]:
        offset, length, _ = self._places[key]
        head = bytes(self._read(offset, min(length, 4096)))
        try:
            return json_object(head[4 : 4 + int.from_bytes(head[:4], "little")])
        except ValueError:
            return {}
