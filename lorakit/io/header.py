"""The header of a safetensors file, read by somebody who believes nothing.

A file is 8 bytes of header length, a JSON header and the data. The spec leaves some things open that we do not: what
does not occur in a file written in good faith (two tensors of one name, unknown fields, holes) is refused, and every
refusal says what is wrong. Neither time nor memory follows from what a header claims, only from the bytes it has.

The JSON is walked by hand: json.loads keeps the last of two equal keys, ends in RecursionError on nesting, and makes
objects of any size. The patterns' quantifiers are possessive, so that no header makes one go back.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from json import decoder
from math import prod
from typing import Any

from lorakit.arrays import SIZES
from lorakit.errors import InputError

MAX_HEADER = 16 << 20
MAX_ENTRIES = 100_000  # tensors, and as many notes in the metadata
_MAX_ENTRY = 4096  # characters, the name included
_MAX_DIMS = 16  # five are the most that layers have

Entry = tuple[str, tuple[int, ...], int, int]

_S = r"[ \t\n\r]*+"
_TEXT = r'"([^"\\\x00-\x1f]*+)"'  # without escapes
_NUMBER = r"(?:0|[1-9][0-9]{0,18})"
_SPACE = re.compile(_S)
_BRACE = re.compile(rf"\{{{_S}")
_COLON = re.compile(rf"{_S}:{_S}")
_NEXT = re.compile(rf"{_S}([,}}]){_S}")
_NUMBERS = re.compile(rf"{_S}(?:{_NUMBER}{_S}(?:,{_S}{_NUMBER}{_S})*+)?+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_USUAL = re.compile(  # an entry as nearly every writer spells it
    rf'{_TEXT}{_S}:{_S}\{{{_S}"dtype"{_S}:{_S}{_TEXT}{_S},{_S}"shape"{_S}:{_S}\[([^\]"]*+)\]{_S},{_S}'
    rf'"data_offsets"{_S}:{_S}\[{_S}({_NUMBER}){_S},{_S}({_NUMBER}){_S}\]{_S}\}}{_S}([,}}]){_S}'
)
_FIELD = re.compile(rf'{_S}{_TEXT}{_S}:{_S}(?:{_TEXT}|\[([^\]"]*+)\]|([^,\s}}]*+)){_S}([,}}])')


@dataclass(frozen=True)
class Header:
    """Where each tensor lies: name -> (dtype, shape, begin, end), both counted from `data_start` in the file."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    data_start: int


def parse_header(head: bytes | bytearray, file_size: int) -> Header:
    """What the first bytes of a file of `file_size` bytes say.

    head    the file's first 8 + N bytes (or all it has), N being the length that it begins with; more is ignored
    raises  InputError, a sentence that goes on after the file's name ("is empty"), and nothing else
    """
    length = _length(head, file_size)
    try:
        text = str(memoryview(head)[8 : 8 + length], "utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(f"it is not UTF-8 at byte {8 + error.start}") from None
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    sized: dict[tuple[str, str], tuple[str, tuple[int, ...], int]] = {}  # one tuple for all tensors of a shape
    for name, dtype, shape, first, last in _items(text, metadata):
        kind = sized.get((dtype, shape)) or sized.setdefault((dtype, shape), _sized(name, dtype, shape))
        begin, end, want = int(first), int(last), kind[2]
        if begin > end or end - begin != want:
            raise _damaged(f"{shown(name)} of {dtype} {list(kind[1])} takes {want} bytes, not {end - begin}")
        if name in entries:
            raise _damaged(f"two tensors named {shown(name)}")
        if len(entries) == MAX_ENTRIES:
            raise InputError(f"has more than {MAX_ENTRIES} tensors")
        entries[name] = (kind[0], kind[1], begin, end)
    _check_cover(entries, file_size - 8 - length)
    return Header(entries, metadata, 8 + length)


def shown(text: str) -> str:
    """A name as it may stand in a message: short, and without control characters."""
    text = text if len(text) <= 120 else f"{text[:80]}...{text[-30:]}"
    return text if text.isprintable() and text.strip() else ascii(text)


def _damaged(fault: str) -> InputError:
    return InputError(f"has a damaged header: {fault}")


def _guess(head: bytes | bytearray) -> str | None:
    """What a file that is no safetensors file may be instead."""
    start = bytes(head[:512]).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is an HTML page (a failed download?); download it again"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git-LFS pointer and not the file itself; run git lfs pull"
    if head[:4] == b"PK\x03\x04":
        return "is a zip archive (a PyTorch pickle under another name?), not a safetensors file"
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "is a pickle, not a safetensors file"
    if start[:1] in (b"{", b"["):
        return "is a JSON text (a server's error message?), not a safetensors file"
    return None


def _length(head: bytes | bytearray, file_size: int) -> int:
    """Of the JSON, which is all in `head`."""
    if not file_size:
        raise InputError("is empty (a failed download?)")
    length = int.from_bytes(head[:8], "little")
    likely = head[8:9] == b"{"  # a header of 640 bytes begins as a pickle does, so this is asked first
    if not likely and (guess := _guess(head)):
        raise InputError(guess)
    if min(file_size, len(head)) < 8:
        raise InputError(f"was cut short: it has {file_size} bytes, and a safetensors file at least 10")
    if length > MAX_HEADER:
        much = f"has a header of {length} bytes; at most {MAX_HEADER} are read"
        raise InputError(much if likely else "is not a safetensors file")
    if length < 2:
        raise InputError("is not a safetensors file: it has no header")
    if length > file_size - 8:
        raise InputError(f"was cut short: the header alone ends at byte {8 + length}, and the file has {file_size}")
    if len(head) < 8 + length:
        raise InputError(f"was cut short while being read: {len(head)} of {8 + length} bytes")
    if not likely:
        raise InputError("is not a safetensors file: its header must begin with {")
    return length


def _after(pattern: re.Pattern[str], text: str, at: int, expected: str) -> re.Match[str]:
    match = pattern.match(text, at)
    if match is None:
        raise _damaged(f"expected {expected} at character {at}")
    return match


def _string(text: str, at: int) -> tuple[str, int]:
    """The JSON string whose opening quote is at `at`, and where it ends."""
    if text[at : at + 1] != '"':
        raise _damaged(f"expected a string at character {at}")
    try:
        value, end = decoder.scanstring(text, at + 1, True)  # type: ignore[attr-defined]
    except ValueError as error:
        raise _damaged(f"{str(error).partition(':')[0].lower()} character {at}") from None
    if not value.isascii() and _SURROGATE.search(value):
        raise _damaged(f"half a surrogate pair in the string at character {at}")
    return value, end


def _items(text: str, metadata: dict[str, str]) -> Iterator[tuple[Any, ...]]:
    """(name, dtype, shape's text, begin, end) of each tensor; `metadata` is filled on the way."""
    usual, seen = _USUAL.match, False
    at, more = _after(_BRACE, text, 0, "{").end(), ","
    if text[at : at + 1] == "}":
        at, more = at + 1, "}"
    while more == ",":
        match = usual(text, at, at + _MAX_ENTRY)
        if match is not None and match[1] != "__metadata__":
            name, dtype, shape, begin, last, more = match.groups()
            at = match.end()
            yield name, dtype, shape, begin, last
            continue
        name, start = _string(text, at)
        start = _after(_COLON, text, start, ":").end()
        if name == "__metadata__":
            if seen:
                raise _damaged("two __metadata__")
            seen, end = True, _read_notes(text, start, metadata)
        else:
            if start - at > _MAX_ENTRY:
                raise _damaged(f"a tensor's name of more than {_MAX_ENTRY} characters")
            *item, end = _entry(text, start, name)
            yield tuple(item)
        match = _after(_NEXT, text, end, "a comma or }")
        more, at = match[1], match.end()
    if (at := _after(_SPACE, text, at, "").end()) != len(text):
        raise _damaged(f"something follows its end at character {at}")


def _read_notes(text: str, at: int, found: dict[str, str]) -> int:
    """Fills `found` from the object at `at`, which holds strings alone; gives where it ends."""
    if text[at : at + 1] != "{":
        raise _damaged("__metadata__ must be an object of strings")
    at = _after(_BRACE, text, at, "{").end()
    if text[at : at + 1] == "}":
        return at + 1
    while True:
        key, at = _string(text, at)
        if key in found:
            raise _damaged(f"two values of {shown(key)} in __metadata__")
        if len(found) == MAX_ENTRIES:
            raise InputError(f"has more than {MAX_ENTRIES} entries in __metadata__")
        at = _after(_COLON, text, at, ":").end()
        if text[at : at + 1] != '"':
            raise _damaged(f"the value of {shown(key)} in __metadata__ is no string")
        found[key], at = _string(text, at)
        match = _after(_NEXT, text, at, "a comma or }")
        if match[1] == "}":
            return match.end()
        at = match.end()


def _entry(text: str, at: int, name: str) -> tuple[str, str, str, int, int, int]:
    """(name, dtype, shape's text, begin, end, where the entry ends), whatever the order of its fields."""
    if text[at : at + 1] != "{":
        raise _damaged(f"the entry of {shown(name)} is no object")
    close = text.find("}", at, at + _MAX_ENTRY) + 1
    if not close:
        raise _damaged(f"the entry of {shown(name)} does not end within {_MAX_ENTRY} characters")
    fields: dict[str, str] = {}
    at, more = at + 1, ","
    while more == ",":
        match = _FIELD.match(text, at, close)
        if match is None:
            raise _damaged(f"cannot read the entry of {shown(name)} at character {at}")
        field, word, numbers, _, more = match.groups()
        if field not in ("dtype", "shape", "data_offsets") or field in fields:
            raise _damaged(
                f"{shown(name)} has {'two fields' if field in fields else 'an unknown field'} {shown(field)}"
            )
        value = word if field == "dtype" else numbers
        if value is None:
            raise _damaged(f"{shown(name)}: {field} must be a {'word' if field == 'dtype' else 'list of numbers'}")
        fields[field], at = value, match.end()
    if missing := {"dtype", "shape", "data_offsets"} - fields.keys():
        raise _damaged(f"{shown(name)} has no {min(missing)}")
    begin, _, end = fields["data_offsets"].partition(",")
    if not _NUMBERS.fullmatch(fields["data_offsets"]) or not end or "," in end:
        raise _damaged(f"{shown(name)}: data_offsets must be two whole numbers, not [{shown(fields['data_offsets'])}]")
    return name, fields["dtype"], fields["shape"], int(begin), int(end), at


def _sized(name: str, dtype: str, shape: str) -> tuple[str, tuple[int, ...], int]:
    """(dtype, shape, bytes)."""
    if dtype not in SIZES:
        raise InputError(f"has the tensor {shown(name)} of dtype {shown(dtype)}, which lorakit does not know")
    if not _NUMBERS.fullmatch(shape):
        raise _damaged(f"{shown(name)}: shape must be whole numbers, not [{shown(shape)}]")
    dims = tuple(map(int, shape.split(","))) if shape.strip() else ()
    if len(dims) > _MAX_DIMS:
        raise _damaged(f"{shown(name)} has {len(dims)} dimensions; at most {_MAX_DIMS} are read")
    if prod(filter(None, dims)) * SIZES[dtype] >= 1 << 60:  # an empty one too: numpy refuses [0, 2**62]
        raise _damaged(f"{shown(name)} of shape {list(dims)} is larger than any file")
    return dtype, dims, prod(dims) * SIZES[dtype]


def _check_cover(entries: Mapping[str, Entry], have: int) -> None:
    """The tensors lie one after the other and fill the data exactly."""
    at, before = 0, ""
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin > at:
            raise _damaged(f"a hole of {begin - at} bytes before {shown(name)}")
        if begin < at:
            raise _damaged(f"{shown(name)} overlaps {shown(before)}")
        at, before = end, name
    if at > have:
        raise InputError(f"was cut short: {have} of {at} bytes of data are there; download or copy it again")
    if at < have:
        raise InputError(f"has {have - at} bytes after its last tensor")
