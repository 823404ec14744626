"""The original checkpoints' layout: the whole model in one file, modules named as in CompVis' and Stability's code."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from lorakit.families import Unet
from lorakit.formats.layouts.place import KeyRule, counted
from lorakit.targets import original_names, text_paths

LAYERS = 2  # of a block; the original code knows no other
UNET = "model.diffusion_model."
VAE = "first_stage_model."
# (prefix, our part, whether it is OpenCLIP's code, whether its last layer is never run)
TEXTS = (
    ("cond_stage_model.transformer.", "text_encoder", False, False),
    ("cond_stage_model.model.", "text_encoder", True, True),  # SD2 takes what comes out of the last layer but one
    ("conditioner.embedders.0.transformer.", "text_encoder", False, False),
    ("conditioner.embedders.1.model.", "text_encoder_2", True, False),
    ("conditioner.embedders.0.model.", "text_encoder_2", True, False),  # SDXL's refiner
)
PREFIX_OF = {
    "sd1": {"text_encoder": TEXTS[0][0]},
    "sd2": {"text_encoder": TEXTS[1][0]},
    "sdxl": {"text_encoder": TEXTS[2][0], "text_encoder_2": TEXTS[3][0]},
    "sdxl-refiner": {"text_encoder_2": TEXTS[4][0]},
}
_KINDS = ("weight", "bias")
_EMBEDDINGS = ("embeddings.token_embedding.weight", "embeddings.position_embedding.weight")
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_IN_PROJ = ("q_proj", "k_proj", "v_proj")
_RESBLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.ln_1\.weight")
_VAE_RESNET = {n: n for n in ("norm1", "conv1", "norm2", "conv2")} | {"nin_shortcut": "conv_shortcut"}
_VAE_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_VAE_LEVEL = re.compile(r"decoder\.up\.(\d+)\.|decoder\.up_blocks\.(\d+)\.")
_VAE_DEEPEST = 5  # resnets of a level


def found(keys: Collection[str]) -> list[KeyRule]:
    """The rules of the parameters that a file with these keys has."""
    rules = list(_unet(original_names()))
    for prefix, part, open_clip, idle in TEXTS:
        inside = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
        if not open_clip:
            rules += _clip(prefix, part)
        elif inside:
            count = layers_of(inside) - (1 if idle else 0)
            rules += _open_clip(prefix, part, count, projected=part == "text_encoder_2")
    rules += vae(levels_of(key.removeprefix(VAE) for key in keys if key.startswith(VAE)))
    present = set(keys)
    return [rule for rule in rules if rule.key in present]


def wanted(names: Collection[str], unet: Unet, kind: str) -> list[KeyRule]:
    """The rules by which parameters of these names are spelled in a file of this kind: "sd1", "sd2", "sdxl" ..."""
    rules = list(_unet({theirs: ours for ours, theirs in unet.original_names()}))
    for part, prefix in PREFIX_OF[kind].items():
        open_clip = next(row[2] for row in TEXTS if row[0] == prefix)
        rules += _open_clip(prefix, part, 40, projected=True) if open_clip else _clip(prefix, part)
    rules += vae(levels_of(name.removeprefix("vae.") for name in names if name.startswith("vae.")))
    # of two spellings of a parameter the first is the usual one
    usual: dict[str, KeyRule] = {}
    for rule in rules:
        if rule.ours in names:
            usual.setdefault(rule.ours, rule)
    return list(usual.values())


def layers_of(inside: Collection[str]) -> int:
    """How many layers an OpenCLIP text encoder has, from its keys without the prefix."""
    return counted(match[1] for key in inside if (match := _RESBLOCK.fullmatch(key)))


def levels_of(keys: Collection[str] | Iterator[str]) -> int:
    """How many resolutions an autoencoder has, from its keys in either spelling."""
    return counted(match[1] or match[2] for key in keys if (match := _VAE_LEVEL.match(key)))


def _unet(names: Mapping[str, str]) -> Iterator[KeyRule]:
    for theirs, ours in names.items():
        yield from (KeyRule(ours=f"unet.{ours}.{kind}", key=f"{UNET}{theirs}.{kind}") for kind in _KINDS)


def _clip(prefix: str, part: str) -> Iterator[KeyRule]:
    """transformers' own code in the file; some leave `text_model.` out."""
    paths = sorted(path.removeprefix("text_model.") for path in text_paths() if path != "text_projection")
    names = [*_EMBEDDINGS, *(f"{path}.{kind}" for path in paths for kind in _KINDS)]
    for begin in (f"{prefix}text_model.", prefix):
        yield from (KeyRule(ours=f"{part}.text_model.{name}", key=f"{begin}{name}") for name in names)


def _open_clip(prefix: str, part: str, layers: int, *, projected: bool) -> Iterator[KeyRule]:
    inner = f"{part}.text_model."
    yield KeyRule(ours=f"{inner}embeddings.token_embedding.weight", key=f"{prefix}token_embedding.weight")
    yield KeyRule(ours=f"{inner}embeddings.position_embedding.weight", key=f"{prefix}positional_embedding")
    for kind in _KINDS:
        yield KeyRule(ours=f"{inner}final_layer_norm.{kind}", key=f"{prefix}ln_final.{kind}")
    if projected:
        yield KeyRule(ours=f"{part}.text_projection.weight", key=f"{prefix}text_projection", transposed=True)
    for i in range(layers):
        theirs, ours = f"{prefix}transformer.resblocks.{i}.", f"{inner}encoder.layers.{i}."
        for kind in _KINDS:
            yield from (KeyRule(ours=f"{ours}{a}.{kind}", key=f"{theirs}{b}.{kind}") for b, a in _LAYER.items())
            for third, name in enumerate(_IN_PROJ):
                yield KeyRule(ours=f"{ours}self_attn.{name}.{kind}", key=f"{theirs}attn.in_proj_{kind}", third=third)


def vae(levels: int) -> Iterator[KeyRule]:
    """An AutoencoderKL of so many resolutions; the original counts the decoder's from the top."""
    yield from _pair("quant_conv", "quant_conv")
    yield from _pair("post_quant_conv", "post_quant_conv")
    for side in ("encoder", "decoder"):
        for ours, theirs in (("conv_in", "conv_in"), ("conv_out", "conv_out"), ("conv_norm_out", "norm_out")):
            yield from _pair(f"{side}.{ours}", f"{side}.{theirs}")
        yield from _resnet(f"{side}.mid_block.resnets.0", f"{side}.mid.block_1")
        yield from _resnet(f"{side}.mid_block.resnets.1", f"{side}.mid.block_2")
        attention = f"{side}.mid_block.attentions.0"
        yield from _pair(f"{attention}.group_norm", f"{side}.mid.attn_1.norm")
        for theirs, ours in _VAE_ATTENTION.items():
            yield KeyRule(
                ours=f"vae.{attention}.{ours}.weight", key=f"{VAE}{side}.mid.attn_1.{theirs}.weight", point=True
            )
            yield KeyRule(ours=f"vae.{attention}.{ours}.bias", key=f"{VAE}{side}.mid.attn_1.{theirs}.bias")
    for i in range(levels):
        down, up = f"encoder.down_blocks.{i}", f"decoder.up_blocks.{levels - 1 - i}"
        for j in range(_VAE_DEEPEST):
            yield from _resnet(f"{down}.resnets.{j}", f"encoder.down.{i}.block.{j}")
            yield from _resnet(f"{up}.resnets.{j}", f"decoder.up.{i}.block.{j}")
        yield from _pair(f"{down}.downsamplers.0.conv", f"encoder.down.{i}.downsample.conv")
        yield from _pair(f"{up}.upsamplers.0.conv", f"decoder.up.{i}.upsample.conv")


def _resnet(ours: str, theirs: str) -> Iterator[KeyRule]:
    for b, a in _VAE_RESNET.items():
        yield from _pair(f"{ours}.{a}", f"{theirs}.{b}")


def _pair(ours: str, theirs: str) -> Iterator[KeyRule]:
    yield from (KeyRule(ours=f"vae.{ours}.{kind}", key=f"{VAE}{theirs}.{kind}") for kind in _KINDS)
