"""The trained parts as a diffusers folder in half precision, with its card and notices."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from lorakit.models.tiny.build import denoiser
from lorakit.models.tiny.build.sources import HELD_OUT_STYLES, PACKAGES, TRAIN_STYLES

_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_URLS = {
    "flat": "https://github.com/microsoft/fluentui-emoji",
    "3d": "https://github.com/microsoft/fluentui-emoji",
    "noto": "https://github.com/googlefonts/noto-emoji",
    "twemoji": "https://github.com/jdecked/twemoji",
}


def notice() -> str:
    """Whose pictures the model was trained on, under which licences."""
    lines = ["The weights of the built-in model were trained on pictures of these works:", ""]
    for package in PACKAGES:
        if package.style in TRAIN_STYLES:
            lines.append(f"- {package.author}, {package.licence}, {_URLS[str(package.style)]}")
            lines.append(f"  (npm package {package.name} {package.version})")
        elif package.style is None:
            lines.append(
                f"- names and tags: {package.author}, {package.licence} (npm package {package.name} {package.version})"
            )
    held = [p for p in PACKAGES if p.style in HELD_OUT_STYLES]
    lines += ["", "Twemoji graphics are licensed under CC-BY 4.0: https://creativecommons.org/licenses/by/4.0/"]
    lines += [f"Not trained on, drawn for tests only: {', '.join(f'{p.name} ({p.licence})' for p in held)}.", ""]
    return "\n".join(lines)


def export(
    vae: AutoencoderKL, unet: UNet2DConditionModel, text: CLIPTextModel, tokenizer_folder: Path, out: Path
) -> None:
    """Write the model folder; weights are rounded to float16."""
    for name, part in (("vae", vae), ("unet", unet), ("text_encoder", text)):
        part.to(torch.float16).save_pretrained(out / name, safe_serialization=True)
        _leave_out(out / name / "config.json", "_name_or_path")
    (out / "tokenizer").mkdir(parents=True, exist_ok=True)
    for file in ("vocab.json", "merges.txt"):
        shutil.copyfile(tokenizer_folder / file, out / "tokenizer" / file)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": denoiser.LENGTH, "unk_token": "<|endoftext|>"}
    settings |= {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (out / "tokenizer" / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2) + "\n", encoding="utf-8", newline="\n"
    )
    denoiser.scheduler().save_pretrained(out / "scheduler")
    _leave_out(out / "scheduler" / "scheduler_config.json", "timestep_spacing")  # each scheduler's own suits it
    (out / "model_index.json").write_text(json.dumps(_INDEX, indent=2) + "\n", encoding="utf-8", newline="\n")
    (out / "NOTICE").write_text(notice(), encoding="utf-8", newline="\n")


def _leave_out(file: Path, key: str) -> None:
    config = json.loads(file.read_text(encoding="utf-8"))
    config.pop(key, None)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8", newline="\n")
