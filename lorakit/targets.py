"""How file formats spell the modules of a base model: dictionaries from their names to ours, never parsed.

One dictionary serves every model of Stable Diffusion's kind. It lists the modules of all families and of a model larger
than any of them, each in diffusers' spelling and in the original checkpoints'; a smaller model has some of them. That no
two modules share a spelling is tested.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from lorakit.families import FAMILIES, TextEncoder, Unet

_LARGEST = Unet(channels=(1,) * 4, depths=(10,) * 4, cross=1, added=1, layers=3)  # its widths mean nothing here
_LONGEST = TextEncoder(1, 40, 1, 1)
_TEXT_PARTS = {"text_encoder": ("lora_te", "lora_te1"), "text_encoder_2": ("lora_te2",)}
PARTS = ("unet", *_TEXT_PARTS)
_OLD_TEXT = {
    "q_proj": "to_q",
    "k_proj": "to_k",
    "v_proj": "to_v",
    "out_proj": "to_out",
}  # as diffusers called them once


def _flat(path: str) -> str:
    return path.replace(".", "_")


@cache
def unet_paths() -> frozenset[str]:
    """diffusers' paths of every UNet module known."""
    return frozenset(path for unet in _unets() for path, _ in unet.weights())


@cache
def text_paths() -> frozenset[str]:
    return frozenset(path for path, _ in _LONGEST.weights())


def _unets() -> Iterator[Unet]:
    yield _LARGEST
    yield from (family.unet for family in FAMILIES.values())


@cache
def original_names() -> dict[str, str]:
    """The original checkpoints' path of a UNet module to diffusers' ("input_blocks.4.1.proj_in" ...)."""
    names: dict[str, str] = {}
    for family in FAMILIES.values():
        if family.unet.layers == 2:  # the original code knows no other
            names |= {theirs: ours for ours, theirs in family.unet.original_names()}
    return names


@cache
def paths(part: str) -> dict[str, str]:
    """Every dotted path in circulation of a part's modules to ours: diffusers' own and its former ones, the original
    checkpoints', and without `text_model.`; empty for parts without tables."""
    if part == "unet":
        names = {path: path for path in unet_paths()}
        names |= {path.removesuffix(".0"): path for path in names if path.endswith(".to_out.0")}
        return names | original_names()
    if part not in _TEXT_PARTS:
        return {}
    names = {path: path for path in text_paths()}
    for new, old in _OLD_TEXT.items():
        names |= {f"{path.removesuffix(new)}{old}": path for path in text_paths() if path.endswith(f".{new}")}
    return names | {theirs.removeprefix("text_model."): ours for theirs, ours in names.items()}


@cache
def flat_paths(part: str) -> dict[str, str]:
    """The same with underscores for dots."""
    return {_flat(theirs): ours for theirs, ours in paths(part).items()}


@cache
def kohya_name_of(family: str | None = None, numbered: bool | None = None) -> dict[str, str]:
    """Our name to the one that a kohya file of this family uses; without a family, SD1's.

    numbered    text encoders are te1 and te2, as where there are two; by default what the family has
    """
    names = {f"unet.{path}": f"lora_unet_{_flat(path)}" for path in unet_paths()}
    if family is not None and FAMILIES[family].original:
        ours = FAMILIES[family].unet.original_names()
        names |= {f"unet.{path}": f"lora_unet_{_flat(theirs)}" for path, theirs in ours}
    if numbered is None:
        numbered = family is not None and "text_encoder_2" in FAMILIES[family].texts
    for part, prefixes in _TEXT_PARTS.items():
        prefix = prefixes[-1] if numbered else prefixes[0]
        names |= {f"{part}.{path}": f"{prefix}_{_flat(path)}" for path in text_paths()}
    return names


def original_name_of(family: str, unet: str, texts: Mapping[str, str]) -> dict[str, str]:
    """Our name to the original checkpoints' path behind a prefix: `unet`, and of `texts` that of each text encoder, whose
    modules keep their paths. Modules that the family lacks are named as a family with as many layers a block has them."""
    alike = [one.unet for one in FAMILIES.values() if one.unet.layers == FAMILIES[family].unet.layers]
    names: dict[str, str] = {}
    for one in (*alike, FAMILIES[family].unet):
        names |= {f"unet.{ours}": f"{unet}{theirs}" for ours, theirs in one.original_names()}
    return names | {f"{part}.{path}": f"{prefix}{path}" for part, prefix in texts.items() for path in text_paths()}


@cache
def _dotted() -> frozenset[str]:
    texts = {f"{part}.{path}" for part in _TEXT_PARTS for path in text_paths()}
    return frozenset({f"unet.{path}" for path in unet_paths()} | texts)


def canonical(name: str) -> str:
    """A dotted name in our spelling: newer transformers leave `text_model.` out, we always have it."""
    part, _, path = name.partition(".")
    if part in _TEXT_PARTS and not path.startswith(("text_model.", "text_projection")):
        return f"{part}.text_model.{path}"
    return name


def is_known(name: str) -> bool:
    """Whether our tables have a module of that name."""
    return name in _dotted()


def parts_of(names: Iterable[str]) -> list[str]:
    """The components that the names belong to, in the order unet, text_encoder, text_encoder_2."""
    found = {name.partition(".")[0] for name in names}
    return [part for part in PARTS if part in found]
