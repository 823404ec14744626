"""Models that are none of Stable Diffusion 1, 2 and XL, told by name: by a folder's index, a file's keys, and configs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lorakit.errors import InputError, some
from lorakit.io.plain import read_json

_WORKS = "lorakit works with Stable Diffusion 1, 2 and XL"
# What the name of a pipeline's class begins with, to what the model is; the longest that fits counts.
_PIPELINES = {
    "StableDiffusion3": "Stable Diffusion 3",
    "Flux2": "Flux.2",
    "Flux3": "Flux.3",
    "Flux": "Flux",
    "PixArt": "PixArt",
    "Kandinsky": "Kandinsky",
    "StableCascade": "Stable Cascade",
    "Wuerstchen": "Wuerstchen",
    "AuraFlow": "AuraFlow",
    "Chroma": "Chroma",
    "Sana": "Sana",
    "Lumina": "Lumina",
    "ZImage": "Z-Image",
    "HiDream": "HiDream",
    "Kolors": "Kolors",
    "QwenImage": "Qwen-Image",
    "HunyuanDiT": "Hunyuan-DiT",
    "HunyuanImage": "HunyuanImage",
    "CogView": "CogView",
    "Bria": "Bria",
    "OmniGen": "OmniGen",
    "Krea": "Krea",
    "IF": "DeepFloyd IF",
    "AltDiffusion": "AltDiffusion",
    "Amused": "aMUSEd",
    "UnCLIP": "unCLIP",
    "StableUnCLIP": "Stable unCLIP",
    "LDM": "latent diffusion before Stable Diffusion",
    "StableDiffusionUpscale": "an upscaler",
    "StableDiffusionLatentUpscale": "an upscaler",
    "StableDiffusionDepth2Img": "a depth-to-image model",
    "StableDiffusionInstructPix2Pix": "InstructPix2Pix",
    "StableDiffusionXLInstructPix2Pix": "InstructPix2Pix XL",
    "StableDiffusionImageVariation": "an image-variation model",
    "VersatileDiffusion": "Versatile Diffusion",
    "PaintByExample": "Paint by Example",
    "BlipDiffusion": "BLIP-Diffusion",
    "Marigold": "Marigold, which tells depth",
    "Cosmos": "Cosmos",
    "Anima": "Anima",
    "Ovis": "Ovis-Image",
    "LongCat": "LongCat",
    "Glm": "GLM-Image",
    "StableAudio": "a model of sound",
    "AudioLDM": "a model of sound",
    "MusicLDM": "a model of sound",
    "AceStep": "a model of sound",
    **dict.fromkeys(
        (
            "AnimateDiff",
            "StableVideoDiffusion",
            "Wan",
            "HunyuanVideo",
            "CogVideo",
            "LTX",
            "Mochi",
            "TextToVideo",
            "VideoToVideo",
            "I2VGenXL",
            "Allegro",
            "Latte",
            "EasyAnimate",
            "ConsisID",
            "SkyReels",
            "Helios",
            "MotifVideo",
            "ChronoEdit",
            "Lucy",
            "PIA",
        ),
        "a video model",
    ),
}
# Of the keys that tell a model's kind each belongs to that kind alone; they may stand behind one of the prefixes.
_KEYS = {
    "joint_blocks.0.context_block.adaLN_modulation.1.bias": "Stable Diffusion 3",
    "joint_blocks.0.context_block.attn.qkv.weight": "Stable Diffusion 3",
    "single_stream_modulation.lin.weight": "Flux.2",
    "double_stream_modulation_img.lin.weight": "Flux.2",
    "distilled_guidance_layer.in_proj.weight": "Chroma",
    "distilled_guidance_layer.in_proj.bias": "Chroma",
    "double_blocks.0.img_attn.norm.key_norm.scale": "Flux",
    "double_blocks.0.img_attn.qkv.weight": "Flux",
    "single_transformer_blocks.0.proj_mlp.weight": "Flux",
    "t_block.1.weight": "PixArt",
    "adaln_single.linear.weight": "PixArt",
    "caption_projection.linear_1.weight": "PixArt",
    "clip_txt_mapper.weight": "Stable Cascade",
    "down_blocks.1.0.channelwise.0.weight": "Stable Cascade",
    "clf.1.weight": "Stable Cascade",
    "visual_transformer_blocks.0.self_attention.to_query.weight": "Kandinsky",
    "encoder_hid_proj.image_embeds.weight": "Kandinsky",
    "add_embedding.image_norm.weight": "Kandinsky",
    "encoder_hid_proj.text_proj.weight": "Kandinsky",
    "double_layers.0.attn.w1q.weight": "AuraFlow",
    "txt_norm.weight": "Qwen-Image",
    "txt_in.text_norm.weight": "Qwen-Image",
    "mlp_t5.0.weight": "Hunyuan-DiT",
    "double_stream_blocks.0.block.adaLN_modulation.1.bias": "HiDream",
    "layers.0.adaLN_modulation.0.weight": "Z-Image",
    "cap_embedder.0.weight": "Lumina",
    "cap_embedder.1.weight": "Lumina",
    "blocks.0.cross_attn.q_linear.weight": "PixArt or Sana",
    "txtfusion.projector.weight": "Krea 2",
    "llm_adapter.blocks.0.cross_attn.q_proj.weight": "Anima",
    "x_embedder.proj.1.weight": "Cosmos",
    "head.modulation": "a video model, Wan",
    "patchify_proj.weight": "a video model, LTX",
    "t5_yproj.weight": "a video model, Mochi",
    "blocks.0.attn.qkv_x.weight": "a video model, Mochi",
    "txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.bias": "a video model, HunyuanVideo",
    "txt_in.individual_token_refiner.blocks.0.norm1.weight": "a video model, HunyuanVideo",
    "controlnet_cond_embedding.conv_in.weight": "a ControlNet",
    "input_hint_block.0.weight": "a ControlNet",
}
_PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "net.", "control_model.", "transformer.", "unet.")
_WITHIN = {
    ".motion_modules.": "a video model, AnimateDiff",
    ".time_stack.": "a video model, Stable Video Diffusion",
    ".temporal_res_block.": "a video model, Stable Video Diffusion",
    ".temp_attentions.": "a video model",
    ".temp_convs.": "a video model",
}
# What keys of other kinds of adapter begin with, or have in them.
_OTHERS = {
    r"lora_controlnet$": "a Control-LoRA",
    r".*\.norm\.(?:key|query)_norm\.scale$": "a Control-LoRA of Flux",
    r"lllite_": "a ControlNet-LLLite",
    r"image_proj\.|.*\bip_adapter|.*\.to_[kv]_ip\.": "an IP-Adapter",
    r".*_custom_diffusion\.": "an adapter of Custom Diffusion",
    r"id_encoder\.": "an adapter of PhotoMaker",
    r"(?:adapter\.)?body\.\d+\.(?:block1|resnets)\.": "a T2I-Adapter",
    r"(?:control_model\.)?(?:zero_convs|input_hint_block)\.|controlnet_(?:cond_embedding|blocks|single_blocks|x_embedder)": "a ControlNet",
    r"lora_controlnet_|controlnet\.": "an adapter of a ControlNet",
    r"(?:.*\.)?motion_modules\.": "a motion module of AnimateDiff",
    r".*position_net\.": "an adapter of GLIGEN",
}
_REFINER = "the SDXL refiner"
# Of single files with a UNet like Stable Diffusion's; nothing in the tables of families tells them apart.
_KINDRED = {
    "depth_model.": "a depth-to-image model",
    "embedder.model.": "Stable unCLIP",
    "noise_augmentor.": "Stable unCLIP",
    "low_scale_model.": "an upscaler",
    "model.diffusion_model.label_emb.weight": "an upscaler",
    "conditioner.embedders.0.model.": _REFINER,
}
_CHANNELS = {
    5: ", as depth-to-image models do",
    7: ", as upscalers do",
    8: ", as InstructPix2Pix and others that are shown a picture do",
}
_CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}


def of_pipeline(name: str) -> str:
    """What a folder for this pipeline is, where lorakit knows it for another model; "" for others."""
    return _PIPELINES.get(max((begin for begin in _PIPELINES if name.startswith(begin)), key=len, default=""), "")


def of_keys(keys: Collection[str]) -> str:
    """What a file with these keys is, where it is no Stable Diffusion; "" where nothing tells."""
    for key, what in _KEYS.items():
        if any(f"{prefix}{key}" in keys for prefix in _PREFIXES):
            return what
    return next((what for inner, what in _WITHIN.items() if any(inner in key for key in keys)), "")


def check_adapter(keys: Collection[str], path: Path | str) -> None:
    """InputError that says what a file is, where it is an adapter of a kind that lorakit does not apply."""
    mark = re.compile("|".join(f"({pattern})" for pattern in _OTHERS))
    found = {index for key in keys if (match := mark.match(key)) for index in [match.lastindex]}
    for index, what in enumerate(_OTHERS.values(), 1):
        if index in found:
            raise InputError(f"{path} is {what}; lorakit works with LoRA, its kin and learned tokens")


def check_keys(keys: Collection[str], path: Path | str) -> None:
    """InputError that says what a file is, where it is another model."""
    if what := of_keys(keys):
        raise InputError(f"{path} is {what}; {_WORKS}")


def check_index(folder: Path) -> str:
    """The pipeline's class that a model folder is for; InputError that says what the folder is, where it is another model."""
    file = folder / "model_index.json"
    name = str(read_json(file, "model's index").get("_class_name", ""))[:80] if file.is_file() else ""
    if what := of_pipeline(name):
        raise InputError(f"{folder} is {what} ({name}); {_WORKS}")
    return name


def check_kindred(keys: Collection[str], path: Path | str) -> None:
    """InputError for a single file that has the keys of Stable Diffusion and is another model."""
    for begin, what in _KINDRED.items():
        if any(key.startswith(begin) for key in keys):
            raise InputError(_refiner(path) if what == _REFINER else f"{path} is {what}; {_WORKS}")


def _refiner(path: Path | str) -> str:
    return f"{path} is {_REFINER}, which finishes another model's pictures; take the base model: --model sdxl"


def check_parts(configs: Mapping[str, Mapping[str, Any]], place: Path) -> None:
    """InputError that says what of a model's parts lorakit has no use for; nothing of it is silently left out."""
    unet, vae = configs.get("unet/config.json", {}), configs.get("vae/config.json", {})
    texts = [f"{part}/config.json" in configs for part in ("text_encoder", "text_encoder_2")]
    if unet.get("addition_embed_type") == "text_time" and texts == [False, True]:
        raise InputError(_refiner(place))
    wrong = [
        f"its {part} is a {name}, not an {usual}" if part == "vae" else f"its {part} is a {name}, not a {usual}"
        for part, usual in _CLASSES.items()
        if (name := str(configs.get(f"{part}/config.json", {}).get("_class_name", usual))[:80]) != usual
    ]
    for part in ("text_encoder", "text_encoder_2"):
        named = configs.get(f"{part}/config.json", {}).get("architectures")
        if isinstance(named, list) and named and not str(named[0]).startswith("CLIP"):
            wrong.append(f"its {part} is a {str(named[0])[:80]}, not a CLIP text encoder")
    wrong += _of_unet(unet, vae.get("latent_channels", 4)) if not wrong else []
    if wrong:
        raise InputError(f"{place}: {some(wrong, 3, '; ')}; {_WORKS}")


def _of_unet(unet: Mapping[str, Any], latent: Any) -> list[str]:
    """What of a UNet's config asks for more than noisy latents, a time, text, and SDXL's sizes."""
    wrong, channels = [], unet.get("in_channels", 4)
    if isinstance(latent, int) and channels not in (latent, 2 * latent + 1):
        wrong.append(
            f"its UNet takes {channels} channels{_CHANNELS.get(channels, '')}, and not {latent}, or {2 * latent + 1} for inpainting"
        )
    if isinstance(latent, int) and unet.get("out_channels", 4) != latent:
        wrong.append(f"its UNet answers {unet.get('out_channels')} channels, and not {latent}")
    if (told := unet.get("class_embed_type")) or unet.get("num_class_embeds"):
        wrong.append(f"its UNet is told a class ({f'class_embed_type {told}' if told else 'num_class_embeds'})")
    if unet.get("addition_embed_type") not in (None, "text_time"):
        wrong.append(f"its UNet is told more than text (addition_embed_type {str(unet['addition_embed_type'])[:40]})")
    if unet.get("encoder_hid_dim_type"):
        wrong.append(
            f"its UNet reads other states than CLIP's (encoder_hid_dim_type {str(unet['encoder_hid_dim_type'])[:40]})"
        )
    if (kind := unet.get("attention_type", "default")) not in (None, "default"):
        wrong.append(f"its UNet has attention of the type {str(kind)[:40]}")
    return wrong
