"""Which format a file is of: every format has a mark, and where a file bears several the first of them in MARKS counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from lorakit.families import FAMILIES, Shape
from lorakit.spellings import PREFIXES, factor_of, is_adapter_key, parse
from lorakit.targets import original_names

Shapes = Mapping[str, Shape]
_SAFELORA = re.compile(r"\w+:\d+:(up|down)")
_FLAT = re.compile(r"(text_encoder/)?\d+")
_OLD = re.compile(
    r"\.processor\.|_lora\.(down|up)\.weight$|\.lora\.(down|up)\.weight$|\.lora_linear_layer\.(down|up)\.weight$"
)
XLABS = re.compile(
    r"(?:diffusion_model\.)?(double|single)_blocks\.(\d+)\.processor\.((?:qkv|proj)_lora[12]?)\.(down|up)\.weight"
)
_TOKEN = re.compile(r"<.+>")
_CLIPS = tuple(text for text, prefix in PREFIXES.items() if prefix.format == "omi")
_MOST_VECTORS = 75  # as many as a prompt has room for
_WIDTHS = {text.width for family in FAMILIES.values() for text in family.texts.values()}


def first(shapes: Shapes, metadata: Mapping[str, str]) -> str | None:
    """The first format whose mark a file with these keys bears."""
    return next((name for name, mark in MARKS.items() if mark(shapes, metadata)), None)


def is_first(name: str, shapes: Shapes, metadata: Mapping[str, str]) -> bool:
    """Whether a file with these keys bears the mark of format `name` and of none that goes before it."""
    if name not in MARKS:
        raise KeyError(name)
    return first(shapes, metadata) == name


def is_old(key: str) -> bool:
    """Whether it is a dotted key in one of diffusers' former spellings."""
    return _OLD.search(key) is not None and is_adapter_key(key)


def _has_prefix(name: str) -> Callable[[str], bool]:
    """Whether a key has a prefix that only files of this format have."""
    return lambda key: bool((prefix := parse(key).prefix).text) and prefix.format == name


_has_comfy = _has_prefix("comfy")


def _is_omi(key: str) -> bool:
    """`unet.` before an original checkpoint's path; alone, `clip_l` is a token's name."""
    if not key.startswith(("unet.", *_CLIPS)) or not is_adapter_key(key):
        return False
    return key.startswith(_CLIPS) or parse(key).path in original_names()


def _any(test: Callable[[str], object]) -> Callable[[Shapes, Mapping[str, str]], bool]:
    return lambda shapes, metadata: any(test(key) for key in shapes)


def _is_token(key: str, shape: Shape) -> bool:
    if _TOKEN.fullmatch(key):
        return True
    _, dot, last = key.rpartition(".")
    return shape[-1] in _WIDTHS and last not in ("weight", "bias") and not (dot and factor_of(last))


def _are_tokens(shapes: Shapes, metadata: Mapping[str, str]) -> bool:
    if not shapes or any(len(shape) not in (1, 2) for shape in shapes.values()):
        return False
    if any(re.fullmatch(r"text_encoders_\d", key) for key in shapes):
        return True
    return all(_is_token(key, shape) for key, shape in shapes.items()) or _is_alone(shapes)


def _is_alone(shapes: Shapes) -> bool:
    """Whether a file's one tensor is a few vectors, as diffusers takes it whatever its name."""
    ((key, shape),) = shapes.items() if len(shapes) == 1 else [("", ())]
    if not re.fullmatch(r"[^.:/]+", key) or key in ("weight", "bias"):
        return False
    return shape[-1] > _MOST_VECTORS and (len(shape) == 1 or shape[0] <= _MOST_VECTORS)


MARKS: dict[str, Callable[[Shapes, Mapping[str, str]], bool]] = {
    "kohya": _any(_has_prefix("kohya")),
    "lorakit": lambda shapes, metadata: "lorakit.checkpoint" in metadata or "lorakit.format" in metadata,
    "cloneofsimo": _any(lambda key: _SAFELORA.fullmatch(key) or _FLAT.fullmatch(key)),
    "peft": _any(lambda key: "base_model.model." in key),
    "xlabs": _any(XLABS.fullmatch),
    "lycoris": _any(_has_prefix("lycoris")),
    "comfy": _any(lambda key: _has_comfy(key) and is_adapter_key(key)),
    "omi": _any(_is_omi),
    "diffusers-old": _any(is_old),
    "diffusers": _any(is_adapter_key),
    "a1111-embedding": _any(lambda key: key.startswith("string_to_param.") or key == "emb_params"),
    "comfy-embedding": _any(lambda key: key in ("clip_l", "clip_g", "clip_h")),
    "diffusers-embedding": _are_tokens,
}
