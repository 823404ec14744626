"""How adapter files spell a key: a prefix, the path of a module, the name of a factor. A table of each drives all reading.

`parse` asks nothing of any model: a module of a family without tables is parsed as any other.

    parse("diffusion_model.input_blocks.4.1.proj_in.lora_B.dog.weight")
    Spelled(prefix="diffusion_model.", part="unet", path="input_blocks.4.1.proj_in", factor="lora_up.weight",
            ending="lora_B.dog.weight", adapter="dog", ...)

`module_of` is the second step: which module of Stable Diffusion a path is, if it is one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from lorakit.registry import DELTA_KINDS
from lorakit.targets import PARTS, flat_paths, is_known, paths

# Of architectures without tables; their modules keep their names.
OPAQUE = ("transformer", "transformer_2", "prior", "text_encoder_3")


@dataclass(frozen=True)
class Prefix:
    """What a key begins with, and which part of the model follows: "" where nothing says it.

    format  the codec that a file with such keys is of, where this alone tells it
    flat    the path has underscores for dots
    """

    text: str
    part: str
    format: str
    flat: bool = False


# ComfyUI's names of text encoders that are none of CLIP's.
_OTHER_TEXTS = (
    "t5xxl",
    "umt5xxl",
    "llama",
    "qwen25_7b",
    "qwen3_4b",
    "qwen3_8b",
    "gemma2_2b",
    "gemma3_4b",
    "gemma3_12b",
    "mistral3_24b",
    "byt5_small",
)
PREFIXES = {
    prefix.text: prefix
    for prefix in (
        Prefix("lora_unet_", "unet", "kohya", flat=True),
        Prefix("lora_te_", "text_encoder", "kohya", flat=True),
        Prefix("lora_te1_", "text_encoder", "kohya", flat=True),
        Prefix("lora_te2_", "text_encoder_2", "kohya", flat=True),
        Prefix("lora_te3_", "text_encoder_3", "kohya", flat=True),
        Prefix("lora_transformer_", "transformer", "kohya", flat=True),
        Prefix("lora_prior_", "prior", "kohya", flat=True),
        Prefix("oft_unet_", "unet", "kohya", flat=True),
        Prefix("lora_unet.", "unet", "kohya"),  # OneTrainer's own
        Prefix("lora_te.", "text_encoder", "kohya"),
        Prefix("lora_te1.", "text_encoder", "kohya"),
        Prefix("lora_te2.", "text_encoder_2", "kohya"),
        Prefix("lora_te3.", "text_encoder_3", "kohya"),
        Prefix("lora_transformer.", "transformer", "kohya"),
        Prefix("lora_prior.", "prior", "kohya"),
        Prefix("lycoris_", "", "lycoris", flat=True),
        Prefix("diffusion_model.", "unet", "comfy"),
        Prefix("model.diffusion_model.", "unet", "comfy"),
        Prefix("text_encoders.clip_l.transformer.", "text_encoder", "comfy"),
        Prefix("text_encoders.clip_h.transformer.", "text_encoder", "comfy"),
        Prefix("text_encoders.clip_g.transformer.", "text_encoder_2", "comfy"),
        *(Prefix(f"text_encoders.{name}.transformer.", "text_encoder_3", "comfy") for name in _OTHER_TEXTS),
        Prefix("clip_l.", "text_encoder", "omi"),
        Prefix("clip_g.", "text_encoder_2", "omi"),
        *(Prefix(f"{part}.", part, "diffusers") for part in (*PARTS, *OPAQUE)),
    )
}
NONE = Prefix("", "", "diffusers")
# What wraps a module and is none: PEFT's model, DistributedDataParallel, torch.compile.
WRAPPERS = ("base_model.model.", "module.", "_orig_mod.")
_WRAPPED = f"(?:{'|'.join(map(re.escape, WRAPPERS))})*"
_TEXTS = "|".join(re.escape(text) for text in sorted(PREFIXES, key=len, reverse=True))
_KEY = re.compile(rf"({_WRAPPED})({_TEXTS}|)({_WRAPPED})(.*)", re.DOTALL)
_INSIDE = re.compile(r"(?<![^.])_orig_mod\.|(?<=\.)processor\.(?=to_)|(?:^|(?<=_))_orig_mod_")

# Names of factors. PEFT's may have the adapter's name behind them and `weight` or `bias` last.
_MAGNITUDE = "lora_magnitude_vector"
_PEFT = {
    "lora_A": "lora_down",
    "lora_B": "lora_up",
    "lora_down": "lora_down",
    "lora_up": "lora_up",
    _MAGNITUDE: _MAGNITUDE,
    "oft_R": "oft_R",
}
_OLDER = {
    "lora.down.weight": "lora_down.weight",
    "lora.up.weight": "lora_up.weight",
    "lora.down": "lora_down.weight",
    "lora.up": "lora_up.weight",
    "lora_linear_layer.down.weight": "lora_down.weight",
    "lora_linear_layer.up.weight": "lora_up.weight",
}
# What is known by name and not read: the factor to why.
UNREAD = {
    "lambda_layer": "a T-LoRA of LyCORIS, whose file lacks the matrices that it began with and its change is counted from",
    "lora_embedding_A": "a LoRA of an embedding, which lorakit does not read",
    "ia3_l": "PEFT's IA3, which lorakit does not read",
    "boft_R": "PEFT's BOFT, which lorakit does not read",
    "vera_lambda_b": "PEFT's VeRA, which lorakit does not read",
    "miss_block": "PEFT's MiSS, which lorakit does not read",
    "hra_u": "PEFT's HRA, which lorakit does not read",
    "shira_weight": "PEFT's SHiRA, which lorakit does not read",
    "c3a_kernel": "PEFT's C3A, which lorakit does not read",
    "set_weight": "a whole weight and no change, which lorakit does not read",
    "reshape_weight": "a weight of another shape than the base model's, which lorakit does not read",
    "magnitude": "ai-toolkit's LoRM, which lorakit does not read",
    "bias_values": "a sparse bias of LyCORIS, which lorakit does not read",
}
_BESIDE = {
    "q_layer.weight",
    "p_layer.weight",
    "lora_embedding_B",
    "boft_s",
    "vera_lambda_d",
    "bias_indices",
    "bias_size",
}
_TELLING = ("lora_", "hada_", "lokr_")  # what no weight of a model is called
_WORDS = 4  # the most that a factor's name has


@cache
def _ours() -> frozenset[str]:
    """The names of factors that are ours already: those of all kinds of delta."""
    kinds = (DELTA_KINDS[name].SUFFIXES for name in DELTA_KINDS.names())
    return frozenset({"diff_b", "b_norm", "lora_up.bias", *UNREAD, *_BESIDE}.union(*kinds))


@cache
def _heads() -> frozenset[str]:
    """The first words of all factors' names."""
    return frozenset(name.partition(".")[0] for name in (*_ours(), *_OLDER, *_PEFT))


def factor_of(ending: str) -> tuple[str, str] | None:
    """(the factor in our spelling, the adapter's name or "") of what a key ends in; None where it is no factor."""
    if ending in _ours():
        return ending, ""
    if ending in _OLDER:
        return _OLDER[ending], ""
    head, *rest = ending.split(".")
    last = rest.pop() if rest and rest[-1] in ("weight", "bias") else ""
    if len(rest) > 1 or (head not in _PEFT and (head not in _ours() or last or head in ("alpha", "weight"))):
        return None
    name = rest[0] if rest else ""
    if head not in _PEFT:
        return head, name  # LoHa's and LoKr's: hada_w1_a.dog
    if last == "bias":
        return ("lora_up.bias", name) if _PEFT[head] == "lora_up" else None
    return _PEFT[head] + (".weight" if _PEFT[head].startswith(("lora_down", "lora_up")) else ""), name


@dataclass(frozen=True, kw_only=True)
class Spelled:
    """One key, taken apart.

    part     of the model: the prefix's, "" where no prefix says it
    path     of the module, as spelled, without what wraps it; underscores for dots where `prefix.flat`
    factor   in our spelling, "lora_down.weight"; "" where the key ends in no factor known
    ending   the factor as spelled; where it is not known, the last word
    adapter  PEFT's name of the adapter, "" where the key has none
    wrapped  whether something wraps the module
    """

    key: str
    prefix: Prefix
    path: str
    factor: str
    ending: str
    adapter: str = ""
    wrapped: bool = False

    @property
    def part(self) -> str:
        return self.prefix.part

    @property
    def stem(self) -> str:
        """The module's name, the same for all of its keys however wrapped: what it is called where no table has it."""
        return f"{self.prefix.text}{self.path}"


@lru_cache(maxsize=1 << 14)  # a file's keys are looked at to tell its format, and then to read it
def parse(key: str) -> Spelled:
    """A key taken apart; every key can be, and one without a known factor has "" for it."""
    found = _KEY.fullmatch(key)
    assert found is not None
    before, text, after, rest = found.groups()
    prefix = PREFIXES.get(text, NONE)
    path, factor, ending, adapter = _split(rest)
    short = _INSIDE.sub("", path) if "_orig_mod" in path or "processor" in path else path
    # A processor is no wrapper: diffusers' oldest files are spelled so.
    wrapped = bool(before or after) or "_orig_mod" in path
    return Spelled(
        key=key,
        prefix=prefix,
        path=short.replace(".", "_") if prefix.flat else short,
        factor=factor,
        ending=ending,
        adapter=adapter,
        wrapped=wrapped,
    )


def _split(rest: str) -> tuple[str, str, str, str]:
    """(path, factor, ending as spelled, adapter's name): the longest known ending is the factor's name."""
    words = rest.split(".")
    heads = _heads()
    for n in range(max(1, len(words) - _WORDS), len(words)):
        if words[n] not in heads and words[n] not in ("down", "up"):
            continue
        ending = ".".join(words[n:])
        if (found := factor_of(ending)) is not None:
            return ".".join(words[:n]), found[0], ending, found[1]
        if words[n - 1].endswith("_lora") and ending in ("down.weight", "up.weight"):  # diffusers' oldest
            return ".".join(words[:n]).removesuffix("_lora"), f"lora_{ending}", f"_lora.{ending}", ""
    path, _, ending = rest.rpartition(".")
    return path, "", ending, ""


def module_of(spelled: Spelled, text: str = "text_encoder") -> str | None:
    """Our name of a module; its stem where no table can have it; None where a table should, and has not.

    text    the text encoder that a path without a part is of
    """
    if spelled.part in OPAQUE:
        return spelled.stem
    known = flat_paths if spelled.prefix.flat else paths
    for part in (spelled.part,) if spelled.part else ("unet", text):
        if (path := known(part).get(spelled.path)) is not None:
            return f"{part}.{path}"
    return None


def within(spelled: Spelled) -> Spelled | None:
    """The same key cut behind the longest path that a table has, with the rest for its ending: a key of a known module
    with a factor that is not. None where no table has any of it."""
    found = _KEY.fullmatch(spelled.key)
    assert found is not None
    words = found[4].split(".")
    for n in range(len(words) - 1, 0, -1):
        path = ("_" if spelled.prefix.flat else ".").join(words[:n])
        cut = replace(spelled, path=path, factor="", ending=".".join(words[n:]))
        if module_of(cut) is not None:
            return cut
    return None


def is_adapter_key(key: str) -> bool:
    """Whether it has a prefix or a path that is known, and a factor that only adapters have (a model's own weights end in
    `weight`, too); or a path of any model, and a factor of those that are said to be an adapter's."""
    spelled = parse(key)
    if spelled.factor in ("", "weight", "alpha"):
        return False
    if spelled.prefix.text or spelled.wrapped or spelled.path.partition(".")[0] in _tops():
        return True
    return "." in spelled.path and spelled.factor.startswith(_TELLING)


@cache
def _tops() -> frozenset[str]:
    """First words of the paths of modules: of files without parts."""
    return frozenset(path.partition(".")[0] for part in ("unet", "text_encoder") for path in paths(part))


_TRANSFORMER = ("unet", "transformer", "")


def stranger(name: str) -> Spelled | None:
    """A module's name taken apart, where the module is of a model without tables of modules; None for a text encoder's."""
    if is_known(name):
        return None
    spelled = parse(f"{name}.alpha")
    return spelled if spelled.part in _TRANSFORMER and spelled.path else None


def place_of(name: str) -> str:
    """The part of the model that a module is in and its path there: of one without tables "transformer", and the path as it
    is spelled."""
    if is_known(name):
        return name
    spelled = parse(f"{name}.alpha")
    return f"{'transformer' if spelled.part in _TRANSFORMER else spelled.part}.{spelled.path}"


def part_of(name: str) -> str:
    """The part of the model that a module is in."""
    return place_of(name).partition(".")[0]
