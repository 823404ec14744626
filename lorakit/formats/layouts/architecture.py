"""What a model is built of, from the shapes of its parameters; and the configs that say so in a diffusers folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lorakit.errors import InputError
from lorakit.families import Shape, Unet
from lorakit.formats.layouts.place import counted
from lorakit.process_config import STABLE

_MOST_BLOCKS = 16
VERSION = "0.30.0"  # of diffusers, whose configs these are like


def _count(shapes: Mapping[str, Shape], pattern: str) -> int:
    found = re.compile(pattern)
    return counted(match[1] for name in shapes if (match := found.match(name)))


def unet_of(shapes: Mapping[str, Shape]) -> Unet:
    """The row of a UNet with these parameters ("unet.conv_in.weight" ...); InputError where it is none we know."""
    blocks = _count(shapes, r"unet\.down_blocks\.(\d+)\.")
    if blocks > _MOST_BLOCKS:
        raise InputError(f"its UNet is none of Stable Diffusion's: it has {blocks} blocks on its way down")
    depths = tuple(
        _count(shapes, rf"unet\.down_blocks\.{i}\.attentions\.0\.transformer_blocks\.(\d+)\.") for i in range(blocks)
    )
    cross = next((s[1] for name, s in shapes.items() if name.endswith(".attn2.to_k.weight")), None)
    try:
        channels = tuple(shapes[f"unet.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(blocks))
        linear = len(next(s for name, s in shapes.items() if name.endswith(".proj_in.weight"))) == 2
        added = shapes.get("unet.add_embedding.linear_1.weight")
        unet = Unet(
            channels=channels,
            depths=depths,
            cross=cross or 0,
            linear_projection=linear,
            mid_depth=_count(shapes, r"unet\.mid_block\.attentions\.0\.transformer_blocks\.(\d+)\."),
            added=added[1] if added else None,
            layers=_count(shapes, r"unet\.down_blocks\.0\.resnets\.(\d+)\."),
        )
        if (unet.layers + 1) * (blocks + sum(depths)) > len(shapes):
            raise KeyError("tensors for so many layers")
        rows = dict(unet.weights())
    except (KeyError, IndexError, StopIteration) as error:
        raise InputError(f"its UNet is none of Stable Diffusion's: no {error}") from None
    rows["conv_in"] = shapes.get("unet.conv_in.weight", rows["conv_in"])  # inpainting has more inputs
    wrong = [name for name, shape in rows.items() if shapes.get(f"unet.{name}.weight") != shape]
    if wrong:
        raise InputError(f"its UNet is none of Stable Diffusion's: unet.{wrong[0]} is not {list(rows[wrong[0]])}")
    return unet


def kind_of(unet: Unet, parts: set[str]) -> str:
    """ "sd1", "sd2", "sdxl" or "sdxl-refiner": whose file layout and configs it has."""
    if unet.added is not None:
        return "sdxl" if "text_encoder" in parts else "sdxl-refiner"
    return "sd2" if unet.linear_projection else "sd1"


def configs(kind: str, unet: Unet, shapes: Mapping[str, Shape], prediction: str) -> dict[str, dict[str, Any]]:
    """Path in a diffusers folder to the config's content, tokenizers aside."""
    side = {"sd1": 512, "sd2": 768 if prediction == "v_prediction" else 512}.get(kind, 1024)
    texts = [part for part in ("text_encoder", "text_encoder_2") if f"{part}.{_TOKENS}" in shapes]
    files: dict[str, dict[str, Any]] = {
        "unet/config.json": _unet(kind, unet, shapes, side),
        "scheduler/scheduler_config.json": scheduler(kind, prediction),
    }
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": VERSION,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", files["scheduler/scheduler_config.json"]["_class_name"]],
    }
    if kind.startswith("sdxl"):
        index["_class_name"] = "StableDiffusionXLPipeline" if kind == "sdxl" else "StableDiffusionXLImg2ImgPipeline"
        index |= {"force_zeros_for_empty_prompt": kind == "sdxl"}
        if kind == "sdxl-refiner":
            index |= {"requires_aesthetics_score": True, "text_encoder": [None, None], "tokenizer": [None, None]}
    else:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    for part in texts:
        files[f"{part}/config.json"] = config = _text(kind, part, shapes)
        index |= {
            part: ["transformers", config["architectures"][0]],
            tokenizer_of(part): ["transformers", "CLIPTokenizer"],
        }
    if any(name.startswith("vae.") for name in shapes):
        files["vae/config.json"] = _vae(kind, shapes, side)
        index["vae"] = ["diffusers", "AutoencoderKL"]
    files["model_index.json"] = index
    return files


_TOKENS = "text_model.embeddings.token_embedding.weight"
_POSITIONS = "text_model.embeddings.position_embedding.weight"


def tokenizer_of(part: str) -> str:
    return part.replace("text_encoder", "tokenizer")


def _unet(kind: str, unet: Unet, shapes: Mapping[str, Shape], side: int) -> dict[str, Any]:
    heads = 8 if kind == "sd1" else [max(1, width // 64) for width in unet.channels]
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in unet.depths]
    up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(unet.depths)]
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": VERSION,
        "sample_size": side // 8,
        "in_channels": shapes["unet.conv_in.weight"][1],
        "out_channels": 4,
        "layers_per_block": unet.layers,
        "block_out_channels": list(unet.channels),
        "down_block_types": down,
        "up_block_types": up,
        "cross_attention_dim": unet.cross,
        "attention_head_dim": heads,
        "norm_num_groups": 32,
        "act_fn": "silu",
        "use_linear_projection": unet.linear_projection,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "center_input_sample": False,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
    }
    if kind == "sd2":
        config["upcast_attention"] = True
    if unet.added is not None:
        projection = shapes.get("text_encoder_2.text_projection.weight", (1280,))[0]
        numbers = 6 if kind == "sdxl" else 5
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (unet.added - projection) // numbers,
            "projection_class_embeddings_input_dim": unet.added,
            "transformer_layers_per_block": [max(1, depth) for depth in unet.depths],
        }
    return config


def _text(kind: str, part: str, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    vocabulary, width = shapes[f"{part}.{_TOKENS}"]
    projected = f"{part}.text_projection.weight" in shapes
    inner = shapes[f"{part}.text_model.encoder.layers.0.mlp.fc1.weight"][0]
    return {
        "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_size": width,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": shapes[f"{part}.{_POSITIONS}"][0],
        "num_hidden_layers": _count(shapes, rf"{part}\.text_model\.encoder\.layers\.(\d+)\."),
        "hidden_act": "gelu" if kind == "sd2" or part == "text_encoder_2" else "quick_gelu",
        "layer_norm_eps": 1e-05,
        "projection_dim": shapes.get(f"{part}.text_projection.weight", (width,))[0],
        "attention_dropout": 0.0,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": 1,
        "initializer_factor": 1.0,
    }


def _vae(kind: str, shapes: Mapping[str, Shape], side: int) -> dict[str, Any]:
    levels = _count(shapes, r"vae\.encoder\.down_blocks\.(\d+)\.")
    widths = [shapes[f"vae.encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels)]
    config: dict[str, Any] = {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": VERSION,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": shapes["vae.decoder.conv_in.weight"][1],
        "block_out_channels": widths,
        "act_fn": "silu",
        "layers_per_block": _count(shapes, r"vae\.encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "norm_num_groups": 32,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "sample_size": side,
        "scaling_factor": 0.13025 if kind.startswith("sdxl") else 0.18215,
    }
    return {**config, "force_upcast": True} if kind.startswith("sdxl") else config


def scheduler(kind: str, prediction: str) -> dict[str, Any]:
    """The scheduler's config of a model of a kind that says nothing but its prediction."""
    return {
        "_class_name": "EulerDiscreteScheduler" if kind.startswith("sdxl") else "DDIMScheduler",
        "_diffusers_version": VERSION,
        **STABLE,
        "steps_offset": 1,
        "prediction_type": prediction,
        "timestep_spacing": "leading",
        "set_alpha_to_one": False,
        **({} if kind.startswith("sdxl") else {"clip_sample": False}),
    }
