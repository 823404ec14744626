"""Every way in which adapter files are spelled, as files: who writes it, and the keys of given modules in it.

`python -m tests.formats.circulating` writes the table of them in the README anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lorakit.adapter import Adapter
from lorakit.deltas.low_rank import LowRank
from lorakit.errors import InputError
from lorakit.families import FAMILIES
from lorakit.formats.adapters import decode
from lorakit.formats.adapters.comfy import names_of
from lorakit.formats.clients import coverage, coverages
from lorakit.formats.codec import Context
from lorakit.registry import CLIENTS
from lorakit.targets import kohya_name_of
from tests.support.adapter_files import random_adapter

Names = Callable[[str, str], str]  # of a module of ours, and of a family
PLAIN = {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"}
AB = {"down": "lora_A.weight", "up": "lora_B.weight"}
FIRST, LAST = "<!-- who writes what: python -m tests.formats.circulating -->", "<!-- end -->"
README = Path(__file__).parents[2] / "README.md"


def _numbered(family: str) -> bool:
    return family == "sdxl"


def kohya(module: str, family: str) -> str:
    return kohya_name_of(family)[module]


def flat(module: str, family: str) -> str:
    """diffusers' names, flattened, whatever the family."""
    return kohya_name_of(None, _numbered(family))[module]


def original(module: str, family: str) -> str:
    """The original checkpoints' path, dotted; a text encoder's is its own."""
    found = names_of(Context(family))[module]
    return re.sub(r"text_encoders\.clip_\w\.transformer\.", "", found.removeprefix("diffusion_model."))


def sgm(module: str, family: str) -> str:
    if not module.startswith("unet."):
        return flat(module, family)
    return f"lora_unet_{original(module, family).replace('.', '_')}"


def comfy(module: str, family: str) -> str:
    return names_of(Context(family))[module]


def omi(module: str, family: str) -> str:
    part = {"unet": "unet", "text_encoder": "clip_l", "text_encoder_2": "clip_g"}[module.partition(".")[0]]
    return f"{part}.{original(module, family)}"


def internal(module: str, family: str) -> str:
    part, _, path = module.partition(".")
    texts = ("lora_te1", "lora_te2") if _numbered(family) else ("lora_te", "")
    return f"{ {'unet': 'lora_unet', 'text_encoder': texts[0], 'text_encoder_2': texts[1]}[part] }.{path}"


def dotted(module: str, family: str) -> str:
    return module


def path(module: str, family: str) -> str:
    return module.partition(".")[2]


def halved(module: str, family: str) -> str:
    """Flattened but for the last word."""
    name = flat(module, family)
    return re.sub(r"_(to_\w+|[qkv]_proj)$", r".\1", name)


def without_zero(module: str, family: str) -> str:
    return flat(module, family).removesuffix("_0") if ".to_out.0" in module else flat(module, family)


def processors(module: str, family: str) -> str:
    """Attention processors' names; a text encoder's attention is called as a UNet's."""
    head, _, leaf = module.removesuffix(".0").rpartition(".")
    if ".self_attn." in module:
        return f"{head}.to_{leaf.removesuffix('_proj')}"
    return f"{head}.processor.{leaf}" if ".attn" in module else module


def behind(prefix: str, names: Names = dotted) -> Names:
    return lambda module, family: f"{prefix}{names(module, family)}"


def inside(wrapper: str) -> Names:
    """A wrapper behind the part's name."""
    return lambda module, family: f"{module.partition('.')[0]}.{wrapper}{module.partition('.')[2]}"


def short(module: str, family: str) -> str:
    return module.replace(".text_model.", ".", 1)


def lycoris(names: Names) -> Names:
    return lambda module, family: f"lycoris_{names(module, family).replace('.', '_')}"


def few(module: str) -> bool:
    """A module of every kind and part: quick to write, and enough for every rule of a name."""
    parts = (
        "unet.mid_block.attentions.0.proj_in",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
        "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.2",
        "unet.down_blocks.1.resnets.0.",
        "unet.up_blocks.0.upsamplers.0.conv",
        "unet.conv_in",
        "unet.time_embedding.linear_1",
        "unet.add_embedding.linear_1",
        "encoder.layers.1.self_attn.",
        "encoder.layers.1.mlp.fc1",
    )
    return any(part in module for part in parts)


def everything(module: str) -> bool:
    return True


def unet(module: str) -> bool:
    return module.startswith("unet.")


def attention(module: str) -> bool:
    return ".attn1." in module or ".attn2." in module or ".self_attn." in module


def unet_attention(module: str) -> bool:
    return unet(module) and attention(module)


@dataclass(frozen=True)
class Row:
    """One way of spelling.

    who         writes it
    names       of modules in the file
    factors     of a low-rank delta, to what they are called; without "alpha" the scale is 1
    families    it is known of
    holds       which modules such files have
    settings    whether lora_adapter_metadata beside the keys says the scale
    other       factors of some modules that are called otherwise
    """

    who: str
    names: Names
    factors: Mapping[str, str] = field(default_factory=lambda: PLAIN)
    families: tuple[str, ...] = ("sd1", "sdxl")
    holds: Callable[[str], bool] = everything
    settings: bool = False
    other: Callable[[str], Mapping[str, str] | None] = lambda module: None

    def adapter(self, adapter: Adapter) -> Adapter:
        """What of an adapter such a file can say: its modules, at scale 1 where it has no place for another."""
        chosen = {name: delta for name, delta in adapter.modules.items() if self.holds(name)}
        if "alpha" not in self.factors and not self.settings:
            chosen = {name: LowRank(d.down, d.up, float(d.rank)) for name, d in chosen.items()}  # type: ignore[attr-defined]
        return Adapter(modules=chosen)

    def file(self, adapter: Adapter, family: str) -> tuple[dict, dict[str, str]]:
        tensors: dict = {}
        for module, delta in adapter.modules.items():
            factors, stem = self.other(module) or self.factors, self.names(module, family)
            values = {"down": delta.down, "up": delta.up, "alpha": np.float32(delta.alpha)}
            for factor, ending in factors.items():
                glue = "" if ending.startswith("_") else "."
                tensors[f"{stem}{glue}{ending}"] = values[factor]
        return tensors, self._settings(adapter) if self.settings else {}

    def _settings(self, adapter: Adapter) -> dict[str, str]:
        fields: dict[str, object] = {}
        for part in dict.fromkeys(name.partition(".")[0] for name in adapter.modules):
            mine = {
                n.partition(".")[2].removeprefix("text_model."): d
                for n, d in adapter.modules.items()
                if n.startswith(f"{part}.")
            }
            fields |= {
                f"{part}.r": 4,
                f"{part}.lora_alpha": 4,
                f"{part}.target_modules": sorted(mine),
                f"{part}.rank_pattern": {n: d.rank for n, d in mine.items()},
                f"{part}.alpha_pattern": {n: d.alpha for n, d in mine.items()},
            }
        return {"lora_adapter_metadata": json.dumps(fields)}


def _former(module: str) -> Mapping[str, str] | None:
    return {"down": "_lora.down.weight", "up": "_lora.up.weight"} if attention(module) else None


def _interim(module: str) -> Mapping[str, str] | None:
    if not unet(module):
        return {"down": "lora_linear_layer.down.weight", "up": "lora_linear_layer.up.weight"}
    return None


def _mixture(module: str) -> Mapping[str, str] | None:
    return DOWN if unet_attention(module) else None


DOWN = {"down": "lora.down.weight", "up": "lora.up.weight"}
BARE = {"down": "lora_A", "up": "lora_B"}
NAMED = {"down": "lora_A.default.weight", "up": "lora_B.default.weight"}
DOG = {"down": "lora_A.dog.weight", "up": "lora_B.dog.weight"}
UP_DOWN = {"down": "lora_down.weight", "up": "lora_up.weight"}

ROWS = {
    "kohya": Row("sd-scripts, LyCORIS, OneTrainer (KOHYA), lorakit", kohya),
    "kohya, diffusers' names": Row(
        "OneTrainer (LEGACY), diffusers' convert_state_dict_to_kohya", flat, families=("sdxl",)
    ),
    "kohya, te1": Row(
        "diffusers' convert_state_dict_to_kohya, for SD 1 too", lambda m, f: flat(m, "sdxl"), families=("sd1",)
    ),
    "kohya, sgm names": Row("tools for the original model", sgm, families=("sd1",)),
    "kohya, no alpha": Row("extractors", kohya, UP_DOWN),
    "kohya, short text": Row(
        "trainers with transformers 5.6 and newer", lambda m, f: flat(m, f).replace("_text_model_", "_")
    ),
    "kohya, PEFT's factors": Row("trainers on PEFT", flat, AB | {"alpha": "alpha"}),
    "kohya, diffusers' factors": Row("trainers on diffusers", flat, DOWN),
    "kohya, half dotted": Row("converters that turn only some dots", halved, holds=attention),
    "kohya, to_out": Row("converters from attention processors", without_zero, holds=unet_attention),
    "kohya, dotted": Row("OneTrainer (INTERNAL)", internal),
    "omi": Row("OneTrainer (OMI)", omi),
    "comfy": Row("ComfyUI's nodes that extract and train, lorakit", comfy, UP_DOWN),
    "comfy, alpha": Row("ComfyUI's training node, lorakit", comfy),
    "comfy, PEFT's factors": Row("ai-toolkit, diffusion-pipe", comfy, AB),
    "comfy, PEFT's factors, alpha": Row("OneTrainer (COMFY), SimpleTuner", comfy, AB | {"alpha": "alpha"}),
    "comfy, checkpoint": Row("tools that keep a checkpoint's names", behind("model.", comfy), UP_DOWN, holds=unet),
    "lycoris": Row("SimpleTuner, LyCORIS' library", lycoris(path), holds=unet),
    "lycoris, original names": Row("LyCORIS' library on an original model", lycoris(original), holds=unet),
    "diffusers": Row("diffusers, PEFT, SimpleTuner, OneTrainer (DIFFUSERS), lorakit", dotted, AB),
    "diffusers, settings": Row("diffusers, SimpleTuner, with lora_adapter_metadata", dotted, AB, settings=True),
    "diffusers, no text_model": Row("diffusers with transformers 5.6 and newer", short, AB),
    "diffusers, alpha": Row("trainers that keep an alpha beside", dotted, AB | {"alpha": "alpha"}),
    "diffusers, no part": Row("get_peft_model_state_dict alone", path, AB, holds=unet),
    "diffusers, kohya's factors": Row("converters that turn only the names", dotted, UP_DOWN),
    "diffusers, adapter named": Row("PEFT's state_dict as it is", dotted, NAMED),
    "diffusers, other adapter": Row("the same, of an adapter with a name", dotted, DOG),
    "diffusers, bare": Row("PEFT's parameters by name", dotted, BARE),
    "omi, PEFT's factors": Row("PEFT on an original model", behind("unet.", original), AB, holds=unet),
    "diffusers, compiled": Row("torch.compile", behind("_orig_mod."), AB),
    "diffusers, compiled part": Row("torch.compile", inside("_orig_mod."), AB),
    "diffusers, distributed": Row("DistributedDataParallel", behind("module."), AB),
    "diffusers-old": Row("diffusers to 0.20: attention processors", processors, DOWN, holds=attention, other=_former),
    "diffusers-old, no part": Row(
        "attn_procs of diffusers to 0.16",
        lambda m, f: path(processors(m, f), f),
        DOWN,
        holds=unet_attention,
        other=_former,
    ),
    "diffusers-old, interim": Row("diffusers 0.21 to 0.25", dotted, DOWN, other=_interim),
    "diffusers-old, mixture": Row("diffusers' convert_state_dict_to_diffusers", dotted, AB, other=_mixture),
    "peft, in a part": Row("scripts on PEFT", inside("base_model.model."), AB),
    "peft, around": Row("PEFT around a whole pipeline", behind("base_model.model."), AB),
}


@dataclass(frozen=True)
class Whole:
    """A kind of file that is no matter of the names of modules: its tensors and metadata as they are.

    keys    what its keys look like, where that says more than the first does
    """

    who: str
    file: Callable[[], tuple[dict, dict[str, str]]]
    keys: str = ""


Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
K = Q.replace("attn1_to_q", "attn2_to_k")


def _ones(*shape: int) -> np.ndarray:
    return np.full(shape, 0.5, "f4")


def _kind(who: str, keys: str = "", **parts: np.ndarray) -> Whole:
    """A LyCORIS kind of a module of SD 1, beside a plain one, which tells the family."""
    plain = {f"{K}.lora_down.weight": _ones(2, 768), f"{K}.lora_up.weight": _ones(1280, 2), f"{K}.alpha": np.float32(2)}
    tensors = {f"{Q}.{ending.replace('__', '.')}": x for ending, x in parts.items()}
    return Whole(who, lambda: (tensors | plain, {}), keys)


_A, _B = _ones(1280, 2), _ones(2, 1280)
_CONV, _XL = "lora_unet_mid_block_resnets_0_conv1", "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
_LOW = {"lora_down__weight": _B, "lora_up__weight": _A, "alpha": np.float32(2)}
_TWO = np.float32(2)


def _named(
    names: Mapping[str, tuple[int, int]], factors: Mapping[str, str]
) -> Callable[[], tuple[dict, dict[str, str]]]:
    """Factors for modules of these shapes, as (out, in): of the i-th module up @ down is i + 1 everywhere."""
    tensors: dict = {}
    for i, (name, (out, width)) in enumerate(names.items()):
        values = {"down": _ones(2, width), "up": (i + 1) * _ones(out, 2) * 2, "alpha": np.float32(2)}
        tensors |= {f"{name}.{ending}": values[factor] for factor, ending in factors.items()}
    return lambda: (tensors, {})


def _peft_folder() -> tuple[dict, dict[str, str]]:
    name = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["to_k"]}
    return {f"{name}.lora_A.weight": _ones(2, 768), f"{name}.lora_B.weight": _ones(1280, 2)}, {
        "adapter_config": json.dumps(config)
    }


def _peft_loha() -> tuple[dict, dict[str, str]]:
    name = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    parts = {f"{name}.hada_w{i}_{x}": _A if x == "a" else _B for i in (1, 2) for x in "ab"}
    return parts, {"adapter_config": json.dumps({"peft_type": "LOHA", "r": 2, "alpha": 2})}


def _peft_oft() -> tuple[dict, dict[str, str]]:
    name = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    return {f"{name}.oft_R.weight": _ones(160, 28)}, {"adapter_config": json.dumps({"peft_type": "OFT", "r": 160})}


def _cloneofsimo(safe: bool) -> tuple[dict, dict[str, str]]:
    pairs = [(f"{i}", _ones(768, 1), _ones(1, 768)) for i in range(48)]
    if safe:
        made = {f"text_encoder:{i}:{way}": x for i, up, down in pairs for way, x in (("up", up), ("down", down))}
        return made, {"text_encoder": json.dumps(["CLIPAttention"])}
    return {str(2 * int(i) + k): x for i, up, down in pairs for k, x in enumerate((up, down))}, {}


_BUNDLE = {"bundle_emb.fox.string_to_param.*": _ones(2, 768)}
_FLUX = {"double_blocks.0.img_attn.qkv": (9216, 3072), "single_blocks.0.linear2": (3072, 15360)}
_FLUX_DIFFUSERS = {
    "transformer_blocks.0.attn.to_q": (3072, 3072),
    "single_transformer_blocks.0.proj_out": (3072, 15360),
}
_XLABS = {"double_blocks.0.processor.qkv_lora1": (9216, 3072), "single_blocks.0.processor.proj_lora": (3072, 15360)}
_T5 = {"encoder.block.0.layer.0.SelfAttention.q": (4096, 4096)}
_SD3 = {"joint_blocks.0.x_block.attn.qkv": (4608, 1536)}
_SD3_DIFFUSERS = {"transformer_blocks.0.attn.to_q": (1536, 1536), "transformer_blocks.0.ff_context.net.2": (1536, 6144)}


def _flat_names(prefix: str, names: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {prefix + name.replace(".", "_"): shape for name, shape in names.items()}


def _dotted_names(prefix: str, names: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {prefix + name: shape for name, shape in names.items()}


# Files of models without tables: who writes them, for what, the names of modules with their shapes, and the factors.
STRANGERS = (
    ("sd-scripts", "Flux", _flat_names("lora_unet_", _FLUX), PLAIN),
    ("sd-scripts", "Flux with T5", {**_flat_names("lora_te3_", _T5), **_flat_names("lora_unet_", _FLUX)}, PLAIN),
    ("OneTrainer", "Flux", _flat_names("lora_transformer_", _FLUX_DIFFUSERS), PLAIN),
    (
        "OneTrainer",
        "Flux with T5",
        {**_flat_names("lora_te2_", _T5), **_flat_names("lora_transformer_", _FLUX_DIFFUSERS)},
        PLAIN,
    ),
    ("diffusers, ai-toolkit, SimpleTuner", "Flux", _dotted_names("transformer.", _FLUX_DIFFUSERS), AB),
    ("ComfyUI, fal", "Flux", _dotted_names("diffusion_model.", _FLUX), AB),
    ("XLabs, UNO, USO", "Flux", _XLABS, {"down": "down.weight", "up": "up.weight"}),
    ("fal", "Flux Kontext", _dotted_names("base_model.model.", _FLUX), AB),
    ("Black Forest Labs, other tools on the original model", "Flux", _FLUX, AB),
    ("SimpleTuner", "Flux", _flat_names("lycoris_", _FLUX_DIFFUSERS), PLAIN),
    ("sd-scripts", "SD 3", _flat_names("lora_unet_", _SD3), PLAIN),
    ("diffusers", "SD 3", _dotted_names("transformer.", _SD3_DIFFUSERS), AB),
    ("PEFT without its settings (Flash)", "SD 3", _dotted_names("base_model.model.", _SD3_DIFFUSERS), AB),
    ("ai-toolkit, diffusion-pipe", "Z-Image", {"diffusion_model.layers.0.attention.qkv": (11520, 3840)}, AB),
    ("sd-scripts, LyCORIS", "Lumina 2", {"lora_unet_layers_0_attention_qkv": (3840, 2304)}, PLAIN),
    (
        "musubi-tuner",
        "Qwen-Image",
        {
            "lora_unet_transformer_blocks_0_attn_add_q_proj": (3072, 3072),
            "lora_unet_transformer_blocks_0_img_mod_1": (18432, 3072),
        },
        PLAIN,
    ),
    (
        "diffusers, ai-toolkit",
        "Qwen-Image",
        {
            "transformer.transformer_blocks.0.attn.add_q_proj": (3072, 3072),
            "transformer.transformer_blocks.0.img_mod.1": (18432, 3072),
        },
        AB,
    ),
    (
        "sd-scripts",
        "Anima",
        {"lora_unet_blocks_0_self_attn_q_proj": (2048, 2048), "lora_unet_llm_adapter_blocks_0_mlp_2": (1024, 4096)},
        PLAIN,
    ),
    ("diffusion-pipe", "Wan", {"diffusion_model.blocks.0.self_attn.q": (5120, 5120)}, AB),
    ("musubi-tuner", "Wan", {"lora_unet_blocks_0_cross_attn_k": (5120, 5120)}, PLAIN),
    (
        "ai-toolkit",
        "Chroma",
        {
            "diffusion_model.distilled_guidance_layer.layers.0.in_layer": (5120, 5120),
            "diffusion_model.double_blocks.0.img_attn.qkv": (9216, 3072),
        },
        AB,
    ),
    (
        "musubi-tuner",
        "HunyuanVideo",
        {
            "lora_unet_double_blocks_0_img_attn_qkv": (9216, 3072),
            "lora_unet_single_blocks_0_modulation_linear": (9216, 3072),
        },
        PLAIN,
    ),
    ("OneTrainer", "Stable Cascade", {"lora_prior_unet_down_blocks_0_1_attention_attn_to_q": (2048, 2048)}, PLAIN),
)


WHOLE = {
    "LoHa": _kind(
        "LyCORIS, OneTrainer", "hada_w1_a", hada_w1_a=_A, hada_w1_b=_B, hada_w2_a=_A, hada_w2_b=_B, alpha=_TWO
    ),
    "LoKr": _kind("LyCORIS, ai-toolkit", "lokr_w1", lokr_w1=_ones(4, 4), lokr_w2=_ones(320, 320), alpha=_TWO),
    "LoCon, Tucker": Whole(
        "LyCORIS",
        lambda: (
            {
                "lora_unet_mid_block_resnets_0_conv1.lora_down.weight": _ones(2, 1280, 1, 1),
                "lora_unet_mid_block_resnets_0_conv1.lora_mid.weight": _ones(2, 2, 3, 3),
                "lora_unet_mid_block_resnets_0_conv1.lora_up.weight": _ones(1280, 2, 1, 1),
                "lora_unet_mid_block_resnets_0_conv1.alpha": _TWO,
            },
            {},
        ),
        "lora_mid.weight",
    ),
    "full": _kind("LyCORIS, ComfyUI", "diff", diff=_ones(1280, 1280)),
    "bias": _kind("LyCORIS, ComfyUI", "diff_b", **_LOW, diff_b=_ones(1280)),
    "norm": Whole(
        "LyCORIS",
        lambda: (
            {
                "lora_unet_mid_block_resnets_0_norm1.w_norm": _ones(1280),
                "lora_unet_mid_block_resnets_0_norm1.b_norm": _ones(1280),
            },
            {},
        ),
        "w_norm",
    ),
    "IA3": _kind("LyCORIS", "weight, on_input", weight=_ones(1280, 1), on_input=np.array(0)),
    "GLoRA": _kind("LyCORIS", "a1.weight", a1__weight=_A, a2__weight=_B, b1__weight=_A, b2__weight=_B, alpha=_TWO),
    "OFT": _kind("LyCORIS (diag-oft), sd-scripts", "oft_blocks", oft_blocks=_ones(4, 320, 320), alpha=np.float32(0)),
    "BOFT": _kind("LyCORIS", "oft_blocks", oft_blocks=_ones(3, 4, 320, 320), alpha=np.float32(0)),
    "DyLoRA": _kind("sd-scripts, LyCORIS", "lora_down.weight", **_LOW),
    "DoRA, by row": _kind("LyCORIS", "dora_scale [out, 1]", **_LOW, dora_scale=_ones(1280, 1)),
    "DoRA, by column": _kind(
        "OneTrainer, older LyCORIS, lorakit", "dora_scale [1, in]", **_LOW, dora_scale=_ones(1, 1280)
    ),
    "DoRA, PEFT's": _kind("trainers on PEFT", "lora_magnitude_vector", **_LOW, lora_magnitude_vector=_ones(1280)),
    "DoRA of diffusers": Whole(
        "diffusers, PEFT, lorakit",
        lambda: (
            _named({"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (1280, 768)}, AB)()[0]
            | {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_magnitude_vector.weight": _ones(1280)},
            {},
        ),
        "unet.….lora_magnitude_vector.weight",
    ),
    "LoHa, Tucker": Whole(
        "LyCORIS",
        lambda: (
            {
                f"{_CONV}.hada_{part}": _ones(2, 2, 3, 3) if part in ("t1", "t2") else _ones(2, 1280)
                for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")
            },
            {},
        ),
        "hada_t1",
    ),
    "LoKr, factored": _kind(
        "LyCORIS",
        "lokr_w1, lokr_w2_a",
        lokr_w1=_ones(4, 4),
        lokr_w2_a=_ones(320, 2),
        lokr_w2_b=_ones(2, 320),
        alpha=_TWO,
    ),
    "OFT of sd-scripts": Whole(
        "sd-scripts",
        lambda: (
            {
                f"oft{Q.removeprefix('lora')}.oft_blocks": _ones(4, 320, 320),
                f"oft{Q.removeprefix('lora')}.alpha": np.float32(0),
            },
            {},
        ),
        "oft_unet_….oft_blocks",
    ),
    "DoRA, of one dimension": _kind("LyCORIS, extractors", "dora_scale [out]", **_LOW, dora_scale=_ones(1280)),
    "convolution, up without a kernel": Whole(
        "sd-mecha",
        lambda: (
            {
                f"{_CONV}.lora_down.weight": _ones(2, 1280, 3, 3),
                f"{_CONV}.lora_up.weight": _ones(1280, 2),
                f"{_CONV}.alpha": _TWO,
            },
            {},
        ),
        "lora_up.weight [out, rank] of a convolution",
    ),
    "linear as a convolution": _kind(
        "older trainers",
        "lora_down.weight [rank, in, 1, 1]",
        lora_down__weight=_ones(2, 1280, 1, 1),
        lora_up__weight=_ones(1280, 2, 1, 1),
        alpha=_TWO,
    ),
    "alpha as a vector of integers": _kind("converters", "alpha [1]", **{**_LOW, "alpha": np.array([2])}),
    "alpha 0": _kind("trainers without alpha", "alpha 0", **{**_LOW, "alpha": np.float32(0)}),
    "bias of PEFT": Whole(
        "diffusers (lora_bias)",
        lambda: (
            {
                **_named({"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (1280, 768)}, AB)()[0],
                "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.bias": _ones(1280),
            },
            {},
        ),
        "unet.….lora_B.bias",
    ),
    "LoRM": _kind("ai-toolkit", "magnitude", **_LOW, magnitude=_ones(1280)),
    "sparse bias": _kind(
        "LyCORIS (extract_locon)",
        "bias_indices, bias_values, bias_size",
        **_LOW,
        bias_indices=np.zeros((2, 1), "i2"),
        bias_values=_ones(1),
        bias_size=np.array([1280, 1280]),
    ),
    "LoRA of an embedding": Whole(
        "PEFT",
        lambda: (
            {
                "base_model.model.text_model.embeddings.token_embedding.lora_embedding_A": _ones(2, 49408),
                "base_model.model.text_model.embeddings.token_embedding.lora_embedding_B": _ones(768, 2),
            },
            {},
        ),
        "lora_embedding_A",
    ),
    "whole modules": Whole(
        "PEFT (modules_to_save)",
        lambda: ({**_peft_folder()[0], "base_model.model.conv_in.weight": _ones(320, 4, 3, 3)}, _peft_folder()[1]),
        "base_model.model.conv_in.weight",
    ),
    "T-LoRA": _kind(
        "LyCORIS 4",
        "q_layer.weight, lambda_layer",
        q_layer__weight=_B,
        p_layer__weight=_A,
        lambda_layer=_ones(1, 2),
        alpha=_TWO,
    ),
    "bundle of SDXL": Whole(
        "OneTrainer, A1111, lorakit",
        lambda: (
            {
                **_named({_XL: (640, 2048)}, PLAIN)()[0],
                "bundle_emb.fox.clip_l": _ones(2, 768),
                "bundle_emb.fox.clip_g": _ones(2, 1280),
            },
            {},
        ),
        "bundle_emb.<token>.clip_l, .clip_g",
    ),
    "bundle": Whole(
        "OneTrainer, A1111, lorakit", lambda: (_kind("", **_LOW).file()[0] | _BUNDLE, {}), "bundle_emb.<token>.…"
    ),
    "PEFT folder": Whole("PEFT, lorakit", _peft_folder, "base_model.model.….lora_A.weight, adapter_config.json"),
    "PEFT folder, LoHa and LoKr": Whole("PEFT", _peft_loha, "base_model.model.….hada_w1_a, adapter_config.json"),
    "PEFT folder, OFT": Whole("PEFT", _peft_oft, "base_model.model.….oft_R.weight, adapter_config.json"),
    "cloneofsimo, safeloras": Whole("cloneofsimo/lora, lorakit", lambda: _cloneofsimo(True), "text_encoder:0:up"),
    "cloneofsimo, lists": Whole("cloneofsimo/lora", lambda: _cloneofsimo(False), "[up0, down0, …] in .pt and .json"),
    "A1111's embedding": Whole(
        "A1111, lorakit",
        lambda: ({"string_to_param.*": _ones(2, 768)}, {"name": "fox"}),
        "string_to_param.* in .pt, .safetensors, .png",
    ),
    "kohya's embedding": Whole("sd-scripts", lambda: ({"emb_params": _ones(2, 768)}, {}), "emb_params"),
    "SDXL's embedding": Whole(
        "ComfyUI, OneTrainer", lambda: ({"clip_l": _ones(2, 768), "clip_g": _ones(2, 1280)}, {}), "clip_l, clip_g"
    ),
    "output embeddings": Whole(
        "OneTrainer",
        lambda: (
            {
                "clip_l": _ones(2, 768),
                "clip_g": _ones(2, 1280),
                "clip_l_out": _ones(2, 768),
                "clip_g_out": _ones(2, 1280),
            },
            {},
        ),
        "clip_l_out, clip_g_out",
    ),
    "diffusers' embedding": Whole("diffusers, lorakit", lambda: ({"<fox>": _ones(2, 768)}, {}), "<token>"),
    "pivotal tuning": Whole(
        "diffusers",
        lambda: ({"text_encoders_0": _ones(2, 768), "text_encoders_1": _ones(2, 1280)}, {}),
        "text_encoders_0, text_encoders_1",
    ),
    **{
        f"{what}, {who}": Whole(f"{who}, for {what}", _named(names, factors)) for who, what, names, factors in STRANGERS
    },
    "Control-LoRA of Flux": Whole(
        "Black Forest Labs",
        lambda: ({**_named(_FLUX, AB)()[0], "double_blocks.0.img_attn.norm.key_norm.scale": _ones(128)}, {}),
        "double_blocks.….norm.key_norm.scale",
    ),
    "Control-LoRA": Whole("Stability AI", lambda: ({"lora_controlnet": _ones(1)}, {}), "lora_controlnet"),
    "ControlNet-LLLite": Whole(
        "sd-scripts",
        lambda: ({"lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.0.weight": _ones(2, 640)}, {}),
        "lllite_unet_….down.0.weight",
    ),
    "IP-Adapter": Whole(
        "Tencent AI Lab",
        lambda: ({"image_proj.proj.weight": _ones(2, 2), "ip_adapter.1.to_k_ip.weight": _ones(2, 2)}, {}),
        "image_proj.…, ip_adapter.…",
    ),
    "IP-Adapter of Flux": Whole(
        "XLabs",
        lambda: ({"double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": _ones(2, 2)}, {}),
        "….processor.ip_adapter_double_stream_k_proj.weight",
    ),
    "Custom Diffusion": Whole(
        "diffusers",
        lambda: (
            {
                "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_custom_diffusion.weight": _ones(
                    320, 768
                )
            },
            {},
        ),
        "….processor.to_k_custom_diffusion.weight",
    ),
}


# The table in the README


def told() -> list[str]:
    """Its lines: of every spelling, what lorakit makes of a file and how many of its modules each client applies rightly."""
    names = CLIENTS.names()
    lines = [f"| who writes it | keys | format here | {' | '.join(names)} |", "| --- " * (3 + len(names)) + "|"]
    for row in ROWS.values():
        found = [_looked(row.file(row.adapter(random_adapter(one, few, ranks=(1,))), one)) for one in row.families]
        cells = [_both([_cell(adapter, client) for adapter in found], row.families) for client in names]
        shown = _shown(row, row.families[-1])
        lines.append(f"| {row.who} | {shown} | `{found[0].format}` | {' | '.join(cells)} |")
    for name, whole in WHOLE.items():
        keys = whole.keys or next(iter(whole.file()[0]))
        try:
            adapter = _looked(whole.file())
            read = "named, not read" if adapter.faults else f"`{adapter.format}`"
        except InputError:
            adapter, read = Adapter(modules={}), "named, not read"
        cells = ["" if _is_told_apart(adapter) else _cell(adapter, client) for client in names]
        lines.append(f"| {whole.who}{f': {name}' if whole.keys else ''} | `{keys}` | {read} | {' | '.join(cells)} |")
    return lines


def _looked(file: tuple[dict, dict[str, str]]) -> Adapter:
    return decode(*file, "file")


def _is_told_apart(adapter: Adapter) -> bool:
    """Whether clients are not asked: of tokens, of models without tables, and of what is not read."""
    return not adapter.modules or bool(adapter.faults) or not coverages(adapter)


def _cell(adapter: Adapter, client: str) -> str:
    found = coverage(adapter, client)
    return "all" if not found.wrong else "none" if not found.right else f"{found.right} of {found.expected}"


def _both(cells: list[str], families: tuple[str, ...]) -> str:
    if len(set(cells)) == 1:
        return cells[0]
    return ", ".join(f"{FAMILIES[family].short} {cell}" for family, cell in zip(families, cells, strict=True))


def _shown(row: Row, family: str) -> str:
    """A key of it that shows how it differs from others."""
    module = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    shown = row.adapter(random_adapter(family, [module], ranks=(1,)))
    key = next(key for key in row.file(shown, family)[0] if "alpha" not in key)
    short = re.sub(r"(mid_block.attentions.0|middle_block.1)([._])transformer_blocks.0.", r"\g<1>\g<2>…\g<2>", key)
    return f"`{short}`"


def written(text: str) -> str:
    """The README with the table as it is today."""
    before, rest = text.split(FIRST)
    return "\n".join([before + FIRST, "", *told(), "", LAST]) + rest.split(LAST)[1]


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
