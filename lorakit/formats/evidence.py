"""What base model an adapter is for, by all that its file tells: shapes and names first, then what it says of itself.

Shapes decide. Where they leave several families, the metadata do, then learned tokens, then how the file spells its text
encoders. A UNet is of one family alone, so the metadata's word about it counts; the first text encoder of SD1 and that of
SDXL are the same, so there it only says which is the likelier.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from lorakit import architectures
from lorakit.adapter import Adapter
from lorakit.architectures import ARCHITECTURES
from lorakit.families import CONV_IN, FAMILIES, INPAINTING, Guess, guess, is_inpainting
from lorakit.spellings import stranger
from lorakit.targets import is_known

# What metadata call a family, the first that fits counts.
_SAID = {
    "sdxl-refiner": re.compile(r"sdxl_refiner|xl-v\d+-refiner|xl-refiner", re.I),
    "sdxl": re.compile(r"^sdxl|^sd_xl|stable-diffusion-xl", re.I),
    "sd2": re.compile(r"^sd_?v?2|stable-diffusion-v?2", re.I),
    "sd1": re.compile(r"^sd_?v?1|stable-diffusion-v?1", re.I),
    "tiny": re.compile(r"^lorakit[_-]tiny$", re.I),
}
_KEYS = ("ss_base_model_version", "modelspec.architecture", "base_model_name_or_path")
_NUMBERED, _ALONE = "lora_te1_", "lora_te_"


def short(name: str) -> str:
    """What people call a family or an architecture."""
    return FAMILIES[name].short if name in FAMILIES else ARCHITECTURES[name].title


def are_strangers(stems: Collection[str]) -> bool:
    """Whether modules of these names, which no family has, are of an architecture that is known."""
    return bool(architectures.told({spelled.path: None for stem in stems if (spelled := stranger(stem))}).names)


def family_of(adapter: Adapter) -> Guess:
    """The likeliest family, why, and all that the adapter can be for; learned tokens alone are told by their widths."""
    if not adapter.modules:
        found = _of_tokens(adapter)
        return Guess(found[0], "the widths of its vectors", found) if found else Guess(None, "")
    shapes = {name: delta.shape for name, delta in adapter.modules.items()}
    if not any(name.startswith("unet.") and is_known(name) for name in shapes) and (other := _strangers(adapter)):
        return other
    shaped = guess(shapes)
    why = shaped.evidence
    if is_inpainting(shapes):
        why += f"; {CONV_IN} takes {INPAINTING} inputs, as for inpainting"
    if shaped.family is None:
        return Guess(None, why)
    families = _holding(adapter, shaped.families)
    if families != shaped.families:
        why += f"; its learned tokens are not for {_or([name for name in shaped.families if name not in families])}"
    claims = _claims(adapter.metadata)
    said, key = next((claim for claim in claims if claim[0] in families), (None, ""))
    if len(families) > 1:
        families, reason = _narrowed(families, adapter, said, key)
        why += "; " + reason
    wrong = {name: its for name, its in reversed(claims) if name != families[0] and name != said}
    why += "".join(f"; not {short(name)}, as its {its} says" for name, its in wrong.items())
    return Guess(families[0], why, families)


def _holding(adapter: Adapter, families: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the families whose text encoders the learned tokens are for; all where they are for those of none."""
    widths = {(part, int(x.shape[-1])) for by in adapter.embeddings.values() for part, x in by.items()}
    texts = {name: {(part, text.width) for part, text in FAMILIES[name].texts.items()} for name in families}
    return tuple(name for name in families if widths <= texts[name]) or families


def _narrowed(families: Collection[str], adapter: Adapter, said: str | None, key: str) -> tuple[tuple[str, ...], str]:
    """(those of equally fitting families that remain, the likeliest first; what speaks for it)."""
    has_unet = any(name.startswith("unet.") for name in adapter.modules)
    if said is not None and has_unet:
        return (said,), f"its {key} says so of {_or(families)}"
    found = [name for name in families if name in _of_tokens(adapter)]
    if found and has_unet:
        return tuple(found), f"its learned tokens say so of {_or(families)}"
    order, reasons = list(families), list[str]()
    spelled = _spelled(adapter.keys.values())
    for reason, wanted in (
        (f"spelled as {spelled[0]}*" if spelled else "", spelled[1] if spelled else ()),
        ("as its learned tokens are", found),
        (f"as its {key} says", [said] if said else []),
    ):
        if set(wanted) & set(order):
            order.sort(key=lambda name: name not in wanted)  # the last reason is the strongest: sorting is stable
            reasons.append(reason)
    others = _or(order[1:])
    return tuple(order), f"{reasons[-1]}, and fits {others} as well" if reasons else f"it fits {others} as well"


def _strangers(adapter: Adapter) -> Guess | None:
    """What architecture the modules that no family has are of, or those of CLIP that an architecture has too where the
    metadata name it; None where there are none."""
    modules = {spelled.path: delta.shape for name, delta in adapter.modules.items() if (spelled := stranger(name))}
    claims = {key: name for key in _KEYS if (name := architectures.named(adapter.metadata.get(key, "")))}
    key, said = next(iter(claims.items()), ("", ""))
    if not modules:
        return Guess(None, f"its {key} says so", architectures=(said,)) if said in with_clips(adapter) else None
    clips = any(name.startswith("text_encoder") for name in adapter.modules)
    found = architectures.told(modules, said, clips)
    if not found.names:
        why = f"its {key} says so" if said else "no known family or architecture has modules of these names"
        return Guess(None, why, architectures=(said,) if said else ())
    why = f"{found.placed} of {found.of} modules have names of {short(found.names[0])}"
    if said and said not in found.names:
        why += f"; not {short(said)}, as its {key} says"
    elif len(found.names) > 1:
        why += f", and of {_or(found.names[1:])} as well"
    elif said:
        why += f", as its {key} says"
    return Guess(None, why, architectures=found.names)


def with_clips(adapter: Adapter) -> list[str]:
    """The architectures that have the text encoders of an adapter for these alone; none for another adapter."""
    if not adapter.modules or not all(name.startswith("text_encoder") for name in adapter.modules):
        return []
    count = 2 if any(name.startswith("text_encoder_2.") for name in adapter.modules) else 1
    return [name for name, one in ARCHITECTURES.items() if one.clips >= count]


def _claims(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    """(a family or an architecture that the metadata name, the key that does), the weightiest first; of a v2 model kohya's
    scripts tell it in a key of its own."""
    found = []
    for key in _KEYS:
        text = metadata.get(key, "").rpartition("/")[2] if key == _KEYS[-1] else metadata.get(key, "")
        name = next((name for name, pattern in _SAID.items() if pattern.search(text)), None)
        if name is None and key != _KEYS[-1]:  # the name of a folder may have any word in it
            name = architectures.named(text)
        found += [(name, key)] if name is not None else []
    return [*found, ("sd2", "ss_v2")] if metadata.get("ss_v2") == "True" else found


def _of_tokens(adapter: Adapter) -> tuple[str, ...]:
    """The families whose text encoders are as wide as the learned tokens."""
    widths = [{part: x.shape[-1] for part, x in by.items()} for by in adapter.embeddings.values()]
    return tuple(
        name
        for name, family in FAMILIES.items()
        if widths and all(by == {part: text.width for part, text in family.texts.items()} for by in widths)
    )


def _spelled(keys: Collection[str]) -> tuple[str, list[str]] | None:
    """(kohya's prefix of the first text encoder, the families whose files have it); None where the file has neither."""
    for prefix, several in ((_NUMBERED, True), (_ALONE, False)):
        if any(key.startswith(prefix) for key in keys):
            return prefix, [name for name, family in FAMILIES.items() if (len(family.texts) > 1) == several]
    return None


def _or(names: Collection[str]) -> str:
    return " or ".join(map(short, names))
