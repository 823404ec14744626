"""diffusers' `load_lora_weights`.

It has two ways. Where every key begins with `lora_unet_` or `lora_te_`, `lora_te1_`, `lora_te2_`, a file is kohya's and is
turned into its own. Any other is taken as its own: of each part the keys that begin with the part's name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from lorakit.adapter import Adapter
from lorakit.families import FAMILIES, table
from lorakit.formats.clients import deaf, deaf_to, flat, named, without_alpha, without_kernel
from lorakit.spellings import Spelled, parse

VERSION = "diffusers 0.42.1 with transformers 5.24, run"
KINDS: dict[str, str] = {}
_FLAT = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
_COMMON = re.compile(r"\.(attn1|attn2|self_attn)\.|^text_encoder\..*\.mlp\.")
_PLAIN = frozenset({"lora", "dora"})
_KOHYA = ("lora_down.weight", "lora_up.weight", "alpha", "dora_scale")
_PEFT = ("lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_magnitude_vector", "lora_magnitude_vector.weight")
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
_INNER = ("k_proj", "v_proj", "q_proj", "out_proj", "fc1", "fc2")  # in the order of the model
_LAYER = re.compile(rf"text_encoder_2\..*\.layers\.(\d+)\.\w+\.({'|'.join(_INNER)})")


def unread(spelled: Spelled, module: str, family: str | None) -> str:
    return ""  # what it takes of a key depends on the others


def spoiled(adapter: Adapter, family: str | None) -> dict[str, str]:
    modules = [*dict.fromkeys([*adapter.modules, *adapter.biases])]
    spelled = {module: [parse(key) for key in adapter.spelled.get(module, ())] for module in modules}
    everything = [one for keys in spelled.values() for one in keys]
    if foreign := _foreign(adapter, everything):
        return dict.fromkeys(modules, f"refuses the whole file for its {foreign}")
    if _stray_dimensions(adapter, family):
        return dict.fromkeys(modules, "refuses the whole file: a linear module is stored as a 1x1 convolution")
    if without_kernel(adapter):
        return dict.fromkeys(modules, "refuses the whole file: a convolution's up factor is a matrix")
    if refused := _projection(adapter):
        return dict.fromkeys(modules, refused)
    if _is_flat(everything):
        return _of_kohya(adapter, spelled, family)
    return _of_its_own(spelled)


def _is_flat(keys: Iterable[Spelled]) -> bool:
    return all(one.key.startswith(_FLAT) for one in keys if one.factor != "dora_scale")


def _foreign(adapter: Adapter, keys: list[Spelled]) -> str:
    """What makes it refuse all of a file, "" where nothing does."""
    kinds = sorted({delta.kind for delta in adapter.modules.values()} - _PLAIN)
    others = ["unknown keys"] * bool(adapter.unknown) + ["bundle_emb"] * bool(adapter.embeddings)
    if not _is_flat(keys):
        # A key of its own has "lora" in it; one of a whole other kind may have it in its prefix.
        endings = dict.fromkeys(
            f"`.{one.ending}`" for one in keys if "lora" not in one.key and one.factor != "dora_scale"
        )
        return ", ".join([*(kinds if endings else ()), *list(endings)[:2], *others])
    others += ["biases"] * bool(adapter.biases)
    if kinds or others:
        return ", ".join([*kinds, *others])
    endings = dict.fromkeys(f"`.{one.ending}`" for one in keys if one.ending not in _KOHYA)
    return ", ".join(list(endings)[:2]) or ", ".join({f"name {named(one)}" for one in keys if "." in named(one)})[:200]


def _stray_dimensions(adapter: Adapter, family: str | None) -> bool:
    weights = table(family) if family else {}
    return any(
        delta.shape and name in weights and len(delta.shape) != len(weights[name])
        for name, delta in adapter.modules.items()
    )


def _projection(adapter: Adapter) -> str:
    """The rank of text_projection is not read: it is taken to be the commonest of the layers' modules."""
    projection = adapter.modules.get("text_encoder_2.text_projection")
    if projection is None or "lora_adapter_metadata" in adapter.metadata:
        return ""
    ranks = {
        (int(found[1]), _INNER.index(found[2])): delta.rank
        for name, delta in adapter.modules.items()
        if (found := _LAYER.fullmatch(name)) is not None
    }
    common = Counter(ranks[place] for place in sorted(ranks)).most_common(1)
    if common and common[0][0] == projection.rank:
        return ""
    return "refuses the whole file: text_projection has another rank than most of the second text encoder's modules"


# kohya's


def _of_kohya(adapter: Adapter, spelled: dict[str, list[Spelled]], family: str | None) -> dict[str, str]:
    wrong = {**_common_alpha(adapter), **_original_names(adapter, family)}
    for part in ("text_encoder.", "text_encoder_2."):
        found = _of_kohyas_text(
            {module: held[0] for module, held in spelled.items() if module.startswith(part) and held}
        )
        if isinstance(found, str):
            return dict.fromkeys(spelled, found)
        wrong |= found
    for module, keys in spelled.items():
        stem = named(keys[0]) if keys else ""
        if module.startswith("unet.add_embedding.") and "add_embedding" in stem:
            wrong[module] = "dropped: it reads this module in sgm spelling only"
        elif stem.endswith("_to_out"):
            wrong[module] = "drops `to_out` without `_0`"
        elif module.startswith("text_encoder_2.text_model.") and "text_model" not in stem:
            wrong[module] = "drops modules of the second text encoder without `text_model`"
    dora = [name for name, delta in adapter.modules.items() if delta.kind == "dora"]
    return wrong | dict.fromkeys(dora, "drops dora_scale and applies the rest as a plain LoRA")


def _of_kohyas_text(keys: Mapping[str, Spelled]) -> dict[str, str] | str:
    """Of one text encoder, a key of each module: what it drops, or why it refuses the file. It tells the spelling that it
    has turned the keys into by what is among them."""
    if not keys:
        return {}
    if not any(module.endswith((".out_proj", ".fc1", ".fc2")) for module in keys):
        return "refuses the whole file: it cannot tell the spelling of a text encoder without out_proj and mlp"
    second = any(module.startswith("text_encoder_2.") for module in keys)
    if second and not any("text_model" in one.path for one in keys.values()):
        return "refuses the whole file: the second text encoder's names lack `text_model`"
    if any(module.endswith(".out_proj") for module in keys):
        return {}
    attention = [module for module in keys if module.endswith(_TEXT_ATTENTION)]
    return dict.fromkeys(attention, "drops a text encoder's attention in a file without any out_proj")


def _common_alpha(adapter: Adapter) -> dict[str, str]:
    """All attention gets the commonest alpha of its part, and so does the MLP of a CLIPTextModel, whose modules
    transformers >= 5.6 names without `text_model.`; those of a CLIPTextModelWithProjection keep their own. A part without
    alphas has each module's rank for it."""
    nothing = frozenset(without_alpha(adapter))
    alphas: dict[str, dict[str, float]] = {}
    stored: dict[str, Counter[float]] = {}
    for name, delta in adapter.modules.items():
        if hasattr(delta, "alpha") and delta.kind == "lora":
            part = name.partition(".")[0]
            alphas.setdefault(part, {})[name] = delta.alpha
            if any(key.endswith(".alpha") for key in adapter.spelled.get(name, ())):
                stored.setdefault(part, Counter())[0.0 if name in nothing else delta.alpha] += 1
    wrong = dict.fromkeys(nothing, "multiplies by the alpha, which is 0")
    for part, counted in stored.items():
        common = counted.most_common(1)[0][0]
        for name, alpha in alphas[part].items():
            if _COMMON.search(name):
                wrong.pop(name, None)
                if alpha != common:
                    wrong[name] = "applies the commonest alpha of the part and not its own"
    return wrong


def _original_names(adapter: Adapter, family: str | None) -> dict[str, str]:
    """sgm names are known for SDXL alone, and are dropped where diffusers' names stand beside them."""
    original = [
        name
        for name, key in adapter.keys.items()
        if name in adapter.modules and key.startswith("lora_unet_") and not key.startswith(_flat(name))
    ]
    if not original:
        return {}
    if not _is_sdxl(adapter, family):
        kept = ("unet.conv_in", "unet.conv_out", "unet.time_embedding")
        return {name: "drops sgm names outside SDXL" for name in original if not name.startswith(kept)}
    unet = [name for name in adapter.modules if name.startswith("unet.")]
    if len(original) < len(unet):
        return dict.fromkeys(original, "drops sgm names where diffusers' stand beside them")
    return {}


def _is_sdxl(adapter: Adapter, family: str | None) -> bool:
    """By the family, or else by what only SDXL has."""
    if family is not None:
        return FAMILIES[family].original
    return any(name.startswith(("text_encoder_2.", "unet.add_embedding.")) for name in adapter.modules)


def _flat(name: str) -> str:
    return f"lora_unet_{flat(name.removeprefix('unet.'))}"


# Its own


def _of_its_own(spelled: dict[str, list[Spelled]]) -> dict[str, str]:
    wrong: dict[str, str] = {}
    for part, takes in (("unet", _of_unet), ("text_encoder", _of_text), ("text_encoder_2", _of_text)):
        keys = [one for held in spelled.values() for one in held if one.key.startswith(f"{part}.")]
        if not keys:
            continue
        found = takes(keys)
        if isinstance(found, str):
            return dict.fromkeys(spelled, found)
        own = {module: [one for one in held if one.key.startswith(f"{part}.")] for module, held in spelled.items()}
        mine = {module: held for module, held in own.items() if held}
        lost = {module: _lost(module, held, found) for module, held in mine.items()}
        wrong |= {module: why for module, why in lost.items() if why}
        if mine and all(lost.values()) and all(_stem(found, one) not in spelled for one in keys):
            return dict.fromkeys(
                spelled, "refuses the whole file: its model has none of the modules that the keys name"
            )
    parts = ("unet.", "text_encoder.", "text_encoder_2.")
    others = {m: held[0] for m, held in spelled.items() if held and not any(one.key.startswith(parts) for one in held)}
    return wrong | {module: deaf(one) for module, one in others.items()}


_Taken = dict[str, tuple[str, str]]  # key to (module, factor) after it turned the key into PEFT's


def _stem(found: _Taken, one: Spelled) -> str:
    return found.get(one.key, ("", ""))[0]


def _lost(module: str, held: list[Spelled], found: _Taken) -> str:
    for one in held:
        stem, ending = found[one.key]
        if ending not in _PEFT:
            return deaf_to(one.ending)
        if stem != module:
            return "drops it: its model has no module of this name"
    return ""


def _of_unet(keys: list[Spelled]) -> _Taken | str:
    """A file whose first key is of today's spelling is not turned into it, so whatever is of a former one is lost."""
    today = "lora_A" in keys[0].key
    found = {one.key: (named(one), one.ending) if today else _turned(one) for one in keys}
    if not any("lora_B" in ending for _, ending in found.values()):
        return "refuses the whole file: it finds no `lora_B` in the UNet's keys"
    return found


def _turned(one: Spelled) -> tuple[str, str]:
    stem, ending = named(one).replace(".processor.", "."), one.ending
    if ending.startswith("_lora.") and stem.endswith((".to_q", ".to_k", ".to_v", ".to_out")):
        stem, ending = stem + ".0" * stem.endswith(".to_out"), ending.removeprefix("_")
    elif ending.startswith("lora_magnitude_vector") and stem.endswith(".to_out"):
        stem += ".0"
    return stem, ending.replace("lora.down", "lora_A").replace("lora.up", "lora_B") if "lora." in ending else ending


def _of_text(keys: list[Spelled]) -> _Taken | str:
    """It asks first which spelling a text encoder's keys have, and of one that has no attention it does not know it."""
    old = any("to_out_lora" in one.key for one in keys)
    linear = any(one.ending.startswith("lora_linear_layer") for one in keys)
    today = any(one.ending == "lora_A.weight" for one in keys)
    attention = any(named(one).endswith(_TEXT_ATTENTION) and one.ending == "lora_A.weight" for one in keys)
    if not (old or linear or (today and attention)):
        what = "of a text encoder without attention" if today else "of the text encoder's keys"
        return f"refuses the whole file: it cannot tell the spelling {what}"
    found = {one.key: _turned_text(one, old) for one in keys}
    if not any(ending == "lora_B.weight" and ".text_model." in stem for stem, ending in found.values()):
        return "refuses the whole file: it finds no `lora_B` in the text encoder's keys"
    return found


def _turned_text(one: Spelled, old: bool) -> tuple[str, str]:
    stem, ending = named(one), one.ending
    if ending.startswith("_lora.") and old:
        stem, ending = re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", stem), ending.removeprefix("_")
        ending = ending.replace("lora.down", "lora_A").replace("lora.up", "lora_B")
    elif ending.startswith("lora_linear_layer.") or (ending.startswith("lora.") and stem.endswith("text_projection")):
        ending = (
            ending.replace("lora_linear_layer.", "lora.").replace("lora.down", "lora_A").replace("lora.up", "lora_B")
        )
    part, _, path = stem.partition(".")
    if part == "text_encoder" and not path.startswith("text_model."):  # its model has none of them
        stem = f"{part}.text_model.{path}"
    return stem, ending
