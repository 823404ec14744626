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
from lorakit.formats.adapters._modules import Context
from lorakit.formats.adapters.comfy import names_of
from lorakit.targets import kohya_name_of

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
        "unet.mid_block.attentions.0.proj_in", "unet.mid_block.attentions.0.transformer_blocks.0.attn1.",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k", "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.2",
        "unet.down_blocks.1.resnets.0.", "unet.up_blocks.0.upsamplers.0.conv", "unet.conv_in", "unet.time_embedding.linear_1",
        "unet.add_embedding.linear_1", "encoder.layers.1.self_attn.", "encoder.layers.1.mlp.fc1",
    )  # fmt: skip
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
        return Adapter(chosen)

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
                f"{part}.r": 4, f"{part}.lora_alpha": 4, f"{part}.target_modules": sorted(mine),
                f"{part}.rank_pattern": {n: d.rank for n, d in mine.items()},
                f"{part}.alpha_pattern": {n: d.alpha for n, d in mine.items()},
            }  # fmt: skip
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
    "kohya, diffusers' names": Row("OneTrainer (LEGACY), diffusers' convert_state_dict_to_kohya", flat, families=("sdxl",)),
    "kohya, te1": Row("diffusers' convert_state_dict_to_kohya, for SD 1 too", lambda m, f: flat(m, "sdxl"), families=("sd1",)),
    "kohya, sgm names": Row("tools for the original model", sgm, families=("sd1",)),
    "kohya, no alpha": Row("extractors", kohya, UP_DOWN),
    "kohya, short text": Row("trainers with transformers 5.6 and newer", lambda m, f: flat(m, f).replace("_text_model_", "_")),
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
    "diffusers-old, no part": Row("attn_procs of diffusers to 0.16", lambda m, f: path(processors(m, f), f), DOWN, holds=unet_attention, other=_former),
    "diffusers-old, interim": Row("diffusers 0.21 to 0.25", dotted, DOWN, other=_interim),
    "diffusers-old, mixture": Row("diffusers' convert_state_dict_to_diffusers", dotted, AB, other=_mixture),
    "peft, in a part": Row("scripts on PEFT", inside("base_model.model."), AB),
    "peft, around": Row("PEFT around a whole pipeline", behind("base_model.model."), AB),
}  # fmt: skip
