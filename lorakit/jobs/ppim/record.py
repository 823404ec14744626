"""What a line of ppim's manifest may be. A folder may come from elsewhere, and its manifest says which files are ppim's own."""

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any

_SMALL = re.compile(r"data:image/[a-z]{1,10};base64,[A-Za-z0-9+/]*={0,2}")
_Test = Callable[[Any], bool]


def is_sound(record: Mapping[str, Any]) -> bool:
    """Whether a record has what is read of it later, each of its type, and names no file outside the folder."""
    return _fits(record, _RECORD, ("source",))


def _fits(table: Any, tests: Mapping[str, _Test], needed: tuple[str, ...]) -> bool:
    if not isinstance(table, dict) or any(key not in table for key in needed):
        return False
    return all(test(table[key]) for key, test in tests.items() if key in table)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    return isinstance(value, int | float)


def _file(value: Any) -> bool:
    """A file's plain name: nothing that leads to another folder, on any system."""
    return isinstance(value, str) and not set(value) & set("/\\:\0") and value not in ("", ".", "..")


def _small(value: Any) -> bool:
    return isinstance(value, str) and _SMALL.fullmatch(value) is not None


def _look(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{16}", value) is not None


def _colours(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(base64.b85decode(value))
    except ValueError:
        return False


def _figures(value: Any) -> bool:
    return isinstance(value, dict) and {"sharpness", "brightness"} <= value.keys() and all(map(_number, value.values()))


def _carried(value: Any) -> bool:
    """The sha256 of a mask that comes, and its share of the picture."""
    return isinstance(value, list) and len(value) == 2 and _text(value[0]) and _number(value[1])


def _edits(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("set"), dict) and _list(_text)(value.get("drop"))


def _maybe(test: _Test) -> _Test:
    return lambda value: value is None or test(value)


def _files(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_list(_text), value.values()))


def _list(test: _Test, length: int | None = None) -> _Test:
    return lambda value: isinstance(value, list) and length in (None, len(value)) and all(map(test, value))


def _size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(side, int) and side > 0 for side in value)


def _augmentation(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _text(value.get("name"))
        and all(_number(v) for k, v in value.items() if k != "name")
    )


def _row(value: Any) -> bool:
    return _fits(value, _ROW, _NEEDED)


_NEEDED = (
    "file_name",
    "text",
    "file_sha256",
    "size",
    "source_size",
    "crop_box",
    "crop",
    "cut_off",
    "augmentations",
    "quality",
    "notes",
    "upscaled",
)
_ROW: dict[str, _Test] = {
    "file_name": _file,
    "mask": _file,
    "text": _text,
    "file_sha256": _text,
    "mask_sha256": _text,
    "size": _size,
    "source_size": _size,
    "enlarge_to": _size,
    "crop_box": _list(_number, 4),
    "crop": _text,
    "crop_why": _text,
    "cut_off": _number,
    "mask_share": _number,
    "augmentations": _list(_augmentation),
    "quality": _figures,
    "notes": _list(_text),
    "thumb": _small,
    "retouched": _text,
    "edits": _edits,
    "captioned_with": _list(_text),
    "masked_with": _list(_text),
    "file_before": _maybe(_text),
    "mask_before": _maybe(_text),
    "text_before": _text,
    "carried": _carried,
    "repeats": _number,
}
_RECORD: dict[str, _Test] = {
    "source": _text,
    "mask_source": _text,
    "name": _text,
    "reason": _text,
    "sha256": _text,
    "look": _look,
    "colours": _colours,
    "own": _text,
    "duplicate_of": _text,
    "duplicate_how": _text,
    "source_size": _size,
    "notes": _list(_text),
    "caption_notes": _list(_text),
    "captioned": _list(_text),
    "thumb": _small,
    "rows": _list(_row),
    "former": _list(_row),
    "files": _files,
    "gone": _list(_text),
}
