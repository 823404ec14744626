"""Transformers that lorakit does not draw with: how the modules of each are named, which is all that their adapters need.

A row has the original checkpoint's names beside diffusers', "*" for the number of a block. Where one weight of the
original is several of diffusers', these follow each other, and `Rule.sizes` says how many rows each has. A name is
looked up with underscores for dots, so that one table serves every spelling.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property

Shape = tuple[int, ...]
_BLOCK = re.compile(r"_(\d+)_")
_SWAPPED = "~"
_QUERY_FIRST = "+"


@dataclass(frozen=True)
class NameRule:
    """A weight of the original and what diffusers calls it.

    whole    the first part has as many rows as the weight has inputs, and so have all but the last of four (Flux's
             linear1) or the others share the rest (grouped queries, Lumina's); without it all parts are alike
    swapped  diffusers has the halves the other way round: shift and scale of a final norm, told by 2 rows an input
    """

    original: str
    parts: tuple[str, ...]
    whole: bool = False
    swapped: bool = False

    def sizes(self, rows: int, inputs: int) -> tuple[int, ...] | None:
        """How many of so many rows each part has; None where they cannot be so divided."""
        count = len(self.parts)
        if not self.whole:
            return (rows // count,) * count if rows % count == 0 else None
        first = 3 if count == 4 else 1
        left, others = rows - first * inputs, count - first
        return (inputs,) * first + (left // others,) * others if left > 0 and left % others == 0 else None


@dataclass(frozen=True)
class ModulePlace:
    """A module of a file: a rule, the number of its block, and which part of the rule's weight; None is all of it."""

    rule: NameRule
    block: str
    part: int | None

    @property
    def original(self) -> str:
        """The original's name of the whole weight."""
        return self.rule.original.replace("*", self.block)

    @property
    def is_fused(self) -> bool:
        """Whether it is all of a weight that diffusers has in parts."""
        return self.part is None and len(self.rule.parts) > 1

    def diffusers(self) -> list[str]:
        """diffusers' names of it, in the order of the rows."""
        parts = self.rule.parts if self.part is None else self.rule.parts[self.part : self.part + 1]
        return [part.replace("*", self.block) for part in parts]


@dataclass(frozen=True)
class Size:
    """A model of an architecture: how wide it is, and how many blocks its first and its second kind of block has."""

    width: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What tells the adapters of one transformer.

    said    what metadata call it
    rules   of its modules
    sizes   of its models
    ratios  rows an input that modules of it have, by the original's name: what tells kindred ones
    clips   how many CLIP text encoders it has
    """

    title: str
    said: re.Pattern[str]
    rules: tuple[NameRule, ...]
    sizes: tuple[Size, ...] = ()
    ratios: Mapping[str, float] = field(default_factory=dict)
    clips: int = 0

    @cached_property
    def places(self) -> dict[str, tuple[NameRule, int | None]]:
        """Flattened name, "*" for the block, to the rule and the part."""
        found: dict[str, tuple[NameRule, int | None]] = {}
        for rule in self.rules:
            found |= {_flat(part): (rule, k if len(rule.parts) > 1 else None) for k, part in enumerate(rule.parts)}
            found[_flat(rule.original)] = rule, None
        return found

    def place(self, path: str) -> ModulePlace | None:
        """Where a module of this path is, whether dotted or flattened; None where the table has no such module."""
        flat = _flat(path)
        number = _BLOCK.search(flat)
        found = self.places.get(_BLOCK.sub("_*_", flat, count=1))
        return None if found is None else ModulePlace(found[0], number[1] if number else "", found[1])


def _flat(path: str) -> str:
    return path.replace(".", "_")


def _rows(text: str) -> tuple[NameRule, ...]:
    """Rules from a table: a line "original = diffusers", or "[original block = diffusers block]" for those that follow;
    without "=" both have one name. "+" before the first part: Rule.whole; "~": Rule.swapped."""
    found, ours, theirs = list[NameRule](), "", ""
    for line in filter(None, map(str.strip, text.splitlines())):
        left, equals, right = (x.strip() for x in line.strip("[]").partition("="))
        if line.startswith("["):
            ours, theirs = (f"{name}." if name else "" for name in (left, right if equals else left))
            continue
        flags = right[:1] if right[:1] in (_SWAPPED, _QUERY_FIRST) else ""
        for name in left.split() if not equals else [left]:
            parts = right.removeprefix(flags).split() if equals else [name]
            found.append(
                NameRule(f"{ours}{name}", tuple(f"{theirs}{part}" for part in parts), flags == "+", flags == "~")
            )
    return tuple(found)


_ATTENTION = "to_q to_k to_v to_out.0"
_FLUX = """
[double_blocks.* = transformer_blocks.*]
img_attn.qkv = attn.to_q attn.to_k attn.to_v
txt_attn.qkv = attn.add_q_proj attn.add_k_proj attn.add_v_proj
img_attn.proj = attn.to_out.0
txt_attn.proj = attn.to_add_out
img_mlp.0 = ff.net.0.proj
img_mlp.2 = ff.net.2
txt_mlp.0 = ff_context.net.0.proj
txt_mlp.2 = ff_context.net.2
[single_blocks.* = single_transformer_blocks.*]
linear1 = +attn.to_q attn.to_k attn.to_v proj_mlp
linear2 = proj_out
[=]
img_in = x_embedder
txt_in = context_embedder
final_layer.linear = proj_out
"""
_FLUX_MODULATION = """
[double_blocks.* = transformer_blocks.*]
img_mod.lin = norm1.linear
txt_mod.lin = norm1_context.linear
[single_blocks.* = single_transformer_blocks.*]
modulation.lin = norm.linear
[=]
time_in.in_layer = time_text_embed.timestep_embedder.linear_1
time_in.out_layer = time_text_embed.timestep_embedder.linear_2
guidance_in.in_layer = time_text_embed.guidance_embedder.linear_1
guidance_in.out_layer = time_text_embed.guidance_embedder.linear_2
vector_in.in_layer = time_text_embed.text_embedder.linear_1
vector_in.out_layer = time_text_embed.text_embedder.linear_2
final_layer.adaLN_modulation.1 = ~norm_out.linear
"""
_CHROMA = """
[distilled_guidance_layer]
in_proj out_proj
[distilled_guidance_layer.layers.*]
in_layer = linear_1
out_layer = linear_2
"""
_FLUX2 = """
[double_blocks.* = transformer_blocks.*]
img_attn.qkv = attn.to_q attn.to_k attn.to_v
txt_attn.qkv = attn.add_q_proj attn.add_k_proj attn.add_v_proj
img_attn.proj = attn.to_out.0
txt_attn.proj = attn.to_add_out
img_mlp.0 = ff.linear_in
img_mlp.2 = ff.linear_out
txt_mlp.0 = ff_context.linear_in
txt_mlp.2 = ff_context.linear_out
[single_blocks.* = single_transformer_blocks.*]
linear1 = attn.to_qkv_mlp_proj
linear2 = attn.to_out
[=]
img_in = x_embedder
txt_in = context_embedder
time_in.in_layer = time_guidance_embed.timestep_embedder.linear_1
time_in.out_layer = time_guidance_embed.timestep_embedder.linear_2
guidance_in.in_layer = time_guidance_embed.guidance_embedder.linear_1
guidance_in.out_layer = time_guidance_embed.guidance_embedder.linear_2
final_layer.linear = proj_out
final_layer.adaLN_modulation.1 = ~norm_out.linear
single_stream_modulation.lin = single_stream_modulation.linear
double_stream_modulation_img.lin = double_stream_modulation_img.linear
double_stream_modulation_txt.lin = double_stream_modulation_txt.linear
"""
_SD3 = """
[joint_blocks.* = transformer_blocks.*]
x_block.attn.qkv = attn.to_q attn.to_k attn.to_v
x_block.attn2.qkv = attn2.to_q attn2.to_k attn2.to_v
context_block.attn.qkv = attn.add_q_proj attn.add_k_proj attn.add_v_proj
x_block.attn.proj = attn.to_out.0
x_block.attn2.proj = attn2.to_out.0
context_block.attn.proj = attn.to_add_out
x_block.mlp.fc1 = ff.net.0.proj
x_block.mlp.fc2 = ff.net.2
context_block.mlp.fc1 = ff_context.net.0.proj
context_block.mlp.fc2 = ff_context.net.2
x_block.adaLN_modulation.1 = norm1.linear
context_block.adaLN_modulation.1 = ~norm1_context.linear
[=]
context_embedder
x_embedder.proj = pos_embed.proj
t_embedder.mlp.0 = time_text_embed.timestep_embedder.linear_1
t_embedder.mlp.2 = time_text_embed.timestep_embedder.linear_2
y_embedder.mlp.0 = time_text_embed.text_embedder.linear_1
y_embedder.mlp.2 = time_text_embed.text_embedder.linear_2
final_layer.linear = proj_out
final_layer.adaLN_modulation.1 = ~norm_out.linear
"""
_Z_IMAGE = """
[layers.*]
attention.qkv = attention.to_q attention.to_k attention.to_v
attention.out = attention.to_out.0
feed_forward.w1 feed_forward.w2 feed_forward.w3 adaLN_modulation.0
[noise_refiner.*]
attention.qkv = attention.to_q attention.to_k attention.to_v
attention.out = attention.to_out.0
feed_forward.w1 feed_forward.w2 feed_forward.w3 adaLN_modulation.0
[context_refiner.*]
attention.qkv = attention.to_q attention.to_k attention.to_v
attention.out = attention.to_out.0
feed_forward.w1 feed_forward.w2 feed_forward.w3
[=]
cap_embedder.1
t_embedder.mlp.0 t_embedder.mlp.2
x_embedder = all_x_embedder.2-1
"""
_LUMINA2 = "".join(
    f"""
[{block}.*]
attention.qkv = +attn.to_q attn.to_k attn.to_v
attention.out = attn.to_out.0
feed_forward.w1 = feed_forward.linear_1
feed_forward.w2 = feed_forward.linear_2
feed_forward.w3 = feed_forward.linear_3
{"adaLN_modulation.1 = norm1.linear" if block != "context_refiner" else ""}
"""
    for block in ("layers", "noise_refiner", "context_refiner")
)
_QWEN = """
[transformer_blocks.*]
attn.to_q attn.to_k attn.to_v attn.to_out.0 attn.add_q_proj attn.add_k_proj attn.add_v_proj attn.to_add_out
img_mlp.net.0.proj img_mlp.net.2 txt_mlp.net.0.proj txt_mlp.net.2 img_mod.1 txt_mod.1
[=]
img_in txt_in proj_out norm_out.linear
time_text_embed.timestep_embedder.linear_1 time_text_embed.timestep_embedder.linear_2
"""
_COSMOS = """
[blocks.* = transformer_blocks.*]
self_attn.q_proj = attn1.to_q
self_attn.k_proj = attn1.to_k
self_attn.v_proj = attn1.to_v
self_attn.output_proj = attn1.to_out.0
cross_attn.q_proj = attn2.to_q
cross_attn.k_proj = attn2.to_k
cross_attn.v_proj = attn2.to_v
cross_attn.output_proj = attn2.to_out.0
mlp.layer1 = ff.net.0.proj
mlp.layer2 = ff.net.2
adaln_modulation_self_attn.1 = norm1.linear_1
adaln_modulation_self_attn.2 = norm1.linear_2
adaln_modulation_cross_attn.1 = norm2.linear_1
adaln_modulation_cross_attn.2 = norm2.linear_2
adaln_modulation_mlp.1 = norm3.linear_1
adaln_modulation_mlp.2 = norm3.linear_2
[=]
x_embedder.proj.1 = patch_embed.proj
final_layer.linear = proj_out
final_layer.adaln_modulation.1 = norm_out.linear_1
final_layer.adaln_modulation.2 = norm_out.linear_2
"""
_ANIMA = """
[llm_adapter.blocks.* = text_conditioner.blocks.*]
self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj
cross_attn.q_proj cross_attn.k_proj cross_attn.v_proj cross_attn.o_proj
mlp.0 mlp.2
[llm_adapter = text_conditioner]
in_proj out_proj
"""
_WAN = """
[blocks.*]
self_attn.q = attn1.to_q
self_attn.k = attn1.to_k
self_attn.v = attn1.to_v
self_attn.o = attn1.to_out.0
cross_attn.q = attn2.to_q
cross_attn.k = attn2.to_k
cross_attn.v = attn2.to_v
cross_attn.o = attn2.to_out.0
cross_attn.k_img = attn2.add_k_proj
cross_attn.v_img = attn2.add_v_proj
ffn.0 = ffn.net.0.proj
ffn.2 = ffn.net.2
[=]
patch_embedding
text_embedding.0 = condition_embedder.text_embedder.linear_1
text_embedding.2 = condition_embedder.text_embedder.linear_2
time_embedding.0 = condition_embedder.time_embedder.linear_1
time_embedding.2 = condition_embedder.time_embedder.linear_2
time_projection.1 = condition_embedder.time_proj
head.head = proj_out
"""
_HUNYUAN_VIDEO = """
[double_blocks.* = transformer_blocks.*]
img_attn_qkv = attn.to_q attn.to_k attn.to_v
txt_attn_qkv = attn.add_q_proj attn.add_k_proj attn.add_v_proj
img_attn_proj = attn.to_out.0
txt_attn_proj = attn.to_add_out
img_mlp.fc1 = ff.net.0.proj
img_mlp.fc2 = ff.net.2
txt_mlp.fc1 = ff_context.net.0.proj
txt_mlp.fc2 = ff_context.net.2
img_mod.linear = norm1.linear
txt_mod.linear = norm1_context.linear
[single_blocks.* = single_transformer_blocks.*]
linear1 = +attn.to_q attn.to_k attn.to_v proj_mlp
linear2 = proj_out
modulation.linear = norm.linear
[txt_in.individual_token_refiner.blocks.* = context_embedder.token_refiner.refiner_blocks.*]
self_attn_qkv = attn.to_q attn.to_k attn.to_v
self_attn_proj = attn.to_out.0
mlp.fc1 = ff.net.0.proj
mlp.fc2 = ff.net.2
adaLN_modulation.1 = norm_out.linear
[=]
img_in.proj = x_embedder.proj
final_layer.linear = proj_out
final_layer.adaLN_modulation.1 = ~norm_out.linear
"""
_SANA = """
[transformer_blocks.*]
attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0 attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0
ff.conv_inverted ff.conv_depth ff.conv_point
"""
_BASIC = """
[transformer_blocks.*]
attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0 attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0
ff.net.0.proj ff.net.2
"""
_LTX2 = """
[transformer_blocks.*]
audio_attn1.to_q audio_attn1.to_k audio_attn1.to_v audio_attn1.to_out.0
audio_attn2.to_q audio_attn2.to_k audio_attn2.to_v audio_attn2.to_out.0
audio_to_video_attn.to_q audio_to_video_attn.to_k audio_to_video_attn.to_v audio_to_video_attn.to_out.0
video_to_audio_attn.to_q video_to_audio_attn.to_k video_to_audio_attn.to_v video_to_audio_attn.to_out.0
audio_ff.net.0.proj audio_ff.net.2
"""
_PIXART = """
[=]
adaln_single.linear caption_projection.linear_1 caption_projection.linear_2
adaln_single.emb.timestep_embedder.linear_1 adaln_single.emb.timestep_embedder.linear_2
"""
_HIDREAM = "".join(
    f"""
[{kind}_stream_blocks.*.block]
attn1.to_q attn1.to_k attn1.to_v attn1.to_out attn1.to_q_t attn1.to_k_t attn1.to_v_t attn1.to_out_t
ff_i.shared_experts.w1 ff_i.shared_experts.w2 ff_i.shared_experts.w3 ff_i.w1 ff_i.w2 ff_i.w3
ff_t.w1 ff_t.w2 ff_t.w3 adaLN_modulation.1
"""
    for kind in ("double", "single")
)
_AURA_FLOW = """
[double_layers.* = joint_transformer_blocks.*]
attn.w2q = attn.to_q
attn.w2k = attn.to_k
attn.w2v = attn.to_v
attn.w2o = attn.to_out.0
attn.w1q = attn.add_q_proj
attn.w1k = attn.add_k_proj
attn.w1v = attn.add_v_proj
attn.w1o = attn.to_add_out
[single_layers.* = single_transformer_blocks.*]
attn.w1q = attn.to_q
attn.w1k = attn.to_k
attn.w1v = attn.to_v
attn.w1o = attn.to_out.0
mlp.c_fc1 = ff.linear_1
mlp.c_fc2 = ff.linear_2
mlp.c_proj = ff.out_projection
"""
_COGVIDEOX = """
[transformer_blocks.*]
attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0 ff.net.0.proj ff.net.2 norm1.linear norm2.linear
"""
_MOCHI = """
[transformer_blocks.*]
attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0 attn1.add_q_proj attn1.add_k_proj attn1.add_v_proj attn1.to_add_out
ff.net.0.proj ff.net.2 ff_context.net.0.proj ff_context.net.2
"""
_KREA2 = """
[blocks.* = transformer_blocks.*]
attn.wq = attn.to_q
attn.wk = attn.to_k
attn.wv = attn.to_v
attn.wo = attn.to_out.0
attn.gate = attn.to_gate
mlp.gate = ff.gate
mlp.up = ff.up
mlp.down = ff.down
"""
_IDEOGRAM4 = """
[layers.*]
attention.qkv = attention.to_q attention.to_k attention.to_v
attention.o = attention.to_out.0
feed_forward.w1 feed_forward.w2 feed_forward.w3 adaln_modulation
"""


def _said(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.I)


# Of equally fitting ones the first is the likeliest.
ARCHITECTURES = {
    "flux1": Architecture(
        title="Flux.1",
        said=_said(r"flux(?!.?[23])"),
        rules=_rows(_FLUX + _FLUX_MODULATION),
        sizes=(Size(3072, (19, 38)),),
        ratios={
            "double_blocks.*.img_mlp.0": 4,
            "double_blocks.*.txt_mlp.0": 4,
            "single_blocks.*.linear1": 7,
            "single_blocks.*.linear2": 1 / 5,
        },
        clips=1,
    ),
    "flux2": Architecture(
        title="Flux.2",
        said=_said(r"flux.?2|klein"),
        rules=_rows(_FLUX2),
        sizes=(Size(6144, (8, 48)), Size(4096, (8, 24)), Size(3072, (5, 20))),
        ratios={
            "double_blocks.*.img_mlp.0": 6,
            "double_blocks.*.txt_mlp.0": 6,
            "single_blocks.*.linear1": 9,
            "single_blocks.*.linear2": 1 / 4,
        },
    ),
    "chroma": Architecture(
        title="Chroma",
        said=_said(r"chroma"),
        rules=_rows(_FLUX + _CHROMA),
        sizes=(Size(3072, (19, 38)),),
        ratios={
            "double_blocks.*.img_mlp.0": 4,
            "double_blocks.*.txt_mlp.0": 4,
            "single_blocks.*.linear1": 7,
            "single_blocks.*.linear2": 1 / 5,
        },
    ),
    "sd3": Architecture(
        title="Stable Diffusion 3",
        said=_said(r"^sd_?3|stable-diffusion-v?3"),
        rules=_rows(_SD3),
        sizes=(Size(1536, (24,)), Size(2432, (38,))),
        clips=2,
    ),
    "qwen-image": Architecture(title="Qwen-Image", said=_said(r"qwen"), rules=_rows(_QWEN), sizes=(Size(3072, (60,)),)),
    "z-image": Architecture(
        title="Z-Image",
        said=_said(r"z.?image"),
        rules=_rows(_Z_IMAGE),
        sizes=(Size(3840, (30,)),),
        ratios={"layers.*.attention.qkv": 3},
    ),
    "lumina2": Architecture(
        title="Lumina Image 2",
        said=_said(r"lumina"),
        rules=_rows(_LUMINA2),
        sizes=(Size(2304, (26,)),),
        ratios={"layers.*.attention.qkv": 5 / 3},
    ),
    "ltx": Architecture(
        title="LTX-Video",
        said=_said(r"ltx(?!.?(v|video)?.?2)"),
        rules=_rows(_BASIC),
        sizes=(Size(2048, (28,)), Size(4096, (48,))),
        ratios={"transformer_blocks.*.attn2.to_k": 1, "transformer_blocks.*.attn2.to_v": 1},
    ),
    "ltx2": Architecture(
        title="LTX-2", said=_said(r"ltx.?(?:v|video)?.?2"), rules=_rows(_BASIC + _LTX2), sizes=(Size(4096, (48,)),)
    ),
    "anima": Architecture(
        title="Anima", said=_said(r"anima(?!te|gine)"), rules=_rows(_COSMOS + _ANIMA), sizes=(Size(2048, (28,)),)
    ),
    "cosmos": Architecture(
        title="Cosmos", said=_said(r"cosmos"), rules=_rows(_COSMOS), sizes=(Size(2048, (28,)), Size(5120, (36,)))
    ),
    "wan": Architecture(
        title="Wan",
        said=_said(r"wan"),
        rules=_rows(_WAN),
        sizes=(Size(5120, (40,)), Size(1536, (30,)), Size(3072, (30,))),
    ),
    "hunyuan-video": Architecture(
        title="HunyuanVideo",
        said=_said(r"hunyuan.?video|framepack"),
        rules=_rows(_HUNYUAN_VIDEO),
        sizes=(Size(3072, (20, 40)),),
        ratios={"single_blocks.*.linear1": 7},
        clips=1,
    ),
    "hidream": Architecture(
        title="HiDream", said=_said(r"hidream"), rules=_rows(_HIDREAM), sizes=(Size(2560, (16, 32)),)
    ),
    "aura-flow": Architecture(
        title="AuraFlow", said=_said(r"aura.?flow"), rules=_rows(_AURA_FLOW), sizes=(Size(3072, (4, 32)),)
    ),
    "pixart": Architecture(
        title="PixArt", said=_said(r"pixart"), rules=_rows(_BASIC + _PIXART), sizes=(Size(1152, (28,)),)
    ),
    "sana": Architecture(title="Sana", said=_said(r"sana"), rules=_rows(_SANA), sizes=(Size(2240, (20,)),)),
    "cogvideox": Architecture(
        title="CogVideoX",
        said=_said(r"cogvideo"),
        rules=_rows(_COGVIDEOX),
        sizes=(Size(1920, (30,)), Size(3072, (42,))),
    ),
    "mochi": Architecture(title="Mochi", said=_said(r"mochi"), rules=_rows(_MOCHI), sizes=(Size(3072, (48,)),)),
    "krea2": Architecture(title="Krea 2", said=_said(r"krea.?2"), rules=_rows(_KREA2), sizes=(Size(6144, (28,)),)),
    "ideogram4": Architecture(
        title="Ideogram 4", said=_said(r"ideogram"), rules=_rows(_IDEOGRAM4), sizes=(Size(4608, (34,)),)
    ),
}


@dataclass(frozen=True)
class Telling:
    """What architecture a file's modules are of, and why.

    names    all that fit equally well, the likeliest first
    placed   how many of its modules the first has, of how many
    """

    names: tuple[str, ...]
    placed: int
    of: int


def told(modules: Mapping[str, Shape | None], said: str = "", clips: bool = False) -> Telling:
    """The architectures whose tables have the most of these modules, by path and shape; none where no table has half.

    said    what the metadata call it, "" where they say nothing
    clips   whether the file has modules of a CLIP text encoder
    """
    found = {
        name: {path: place for path in modules if (place := one.place(path))} for name, one in ARCHITECTURES.items()
    }
    most = max(map(len, found.values()))
    if not modules or 2 * most < len(modules):
        return Telling((), most, len(modules))
    names = [name for name, places in found.items() if len(places) == most]
    shapes = {name: [(place, modules[path]) for path, place in found[name].items()] for name in names}
    names = _kept(names, {name: int(name == said) for name in names})
    names = _kept(names, {name: _agreeing(ARCHITECTURES[name], shapes[name]) for name in names})
    names = _kept(
        names,
        {
            name: max((_like(ARCHITECTURES[name], x, shapes[name]) for x in ARCHITECTURES[name].sizes), default=0)
            for name in names
        },
    )
    names = _kept(names, {name: int(clips and ARCHITECTURES[name].clips > 0) for name in names})
    return Telling(tuple(names), most, len(modules))


def named(text: str) -> str | None:
    """The architecture that metadata call so."""
    return next((name for name, one in ARCHITECTURES.items() if one.said.search(text)), None)


def kind_of(path: str) -> str:
    """What the repeated blocks are called that a module is in; the module itself where it is in none."""
    flat = _flat(path)
    number = _BLOCK.search(flat)
    return flat[: number.start()] if number else flat


def _kept(names: Collection[str], points: Mapping[str, int]) -> list[str]:
    most = max(points[name] for name in names)
    return [name for name in names if points[name] == most]


_Placed = Collection[tuple[ModulePlace, "Shape | None"]]


def _agreeing(one: Architecture, placed: _Placed) -> int:
    """How many modules have the rows an input that they must have, less how many have not."""
    points = 0
    for place, shape in placed:
        ratio = one.ratios.get(place.rule.original)
        if ratio is not None and shape is not None and len(shape) > 1 and place.part is None:
            points += 1 if shape[0] == ratio * shape[1] else -1
    return points


def _like(one: Architecture, size: Size, placed: _Placed) -> int:
    """2 where the modules are as wide as this model's, 1 more where they are in all of its blocks; 0 where they are not
    all in it."""
    shaped = [shape for _, shape in placed if shape is not None and len(shape) > 1]
    if 2 * sum(size.width in shape[:2] for shape in shaped) < len(shaped):
        return 0
    last = dict.fromkeys(_kinds(one)[: len(size.blocks)], -1)
    for place, _ in placed:
        kind = place.rule.original.partition(".*")[0]
        if kind in last and place.block:
            last[kind] = max(last[kind], int(place.block))
    pairs = list(zip(last.values(), size.blocks, strict=False))
    if any(most >= count for most, count in pairs):
        return 0
    return 2 + any(most + 1 == count for most, count in pairs)


@cache
def _kinds_of(rules: tuple[NameRule, ...]) -> list[str]:
    return list(dict.fromkeys(rule.original.partition(".*")[0] for rule in rules if ".*" in rule.original))


def _kinds(one: Architecture) -> list[str]:
    """What its repeated blocks are called, in the order of the table."""
    return _kinds_of(one.rules)
