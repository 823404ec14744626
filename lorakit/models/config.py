"""A model's folder by name, and what its configs say: no torch, no weights."""

import json
from collections.abc import Iterator
from pathlib import Path

from lorakit.errors import InputError, UnavailableError, UsageError

ALIASES = {"sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5", "sd21": "stabilityai/stable-diffusion-2-1"}
_PLANNED = ("sdxl",)


def folder_of(name: str) -> Path:
    """The diffusers folder of a model name; fetched from the hub where it must be."""
    if name == "tiny":
        return Path(__file__).parent / "tiny"
    if name in _PLANNED:
        raise UsageError(f"--model {name} is not built yet in this version (there are: tiny, {', '.join(ALIASES)})")
    path = Path(name)
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise InputError(f"{path} is not a diffusers model folder: it has no model_index.json")
        return path
    if path.suffix in (".safetensors", ".ckpt"):
        raise UsageError(f"--model {path}: single-file checkpoints are not built yet; give a diffusers folder")
    if path.exists() or name.startswith((".", "/")):
        raise InputError(f"--model {name}: no such model folder")
    return _from_hub(ALIASES.get(name, name))


def _from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors"]
    refused = ["*fp16*", "*non_ema*", "safety_checker/*"]
    try:
        return Path(snapshot_download(repository, allow_patterns=wanted, ignore_patterns=refused))
    except Exception as error:  # the hub's client raises a dozen kinds, all meaning this
        raise UnavailableError(
            f"model '{repository}' is not to be had: {type(error).__name__}\n"
            f"check the name and the network, or fetch it elsewhere: hf download {repository}"
        ) from error


def native_size(name: str) -> tuple[int, int]:
    """(side in pixels, multiple) of a model, read from its configs alone: no torch, no weights."""
    folder = folder_of(name)
    unet = json.loads((folder / "unet" / "config.json").read_text())
    vae = json.loads((folder / "vae" / "config.json").read_text())
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    return unet["sample_size"] * factor, factor * 2 ** (len(unet["block_out_channels"]) - 1)


def weight_files(folder: Path, parts: tuple[str, ...] = ("unet", "text_encoder")) -> Iterator[tuple[str, Path]]:
    """(part, its safetensors file) of a diffusers folder."""
    for part in parts:
        files = sorted((folder / part).glob("*.safetensors"))
        whole = [file for file in files if "fp16" not in file.name] or files
        if not whole:
            raise InputError(f"{folder / part}: no safetensors weights (pickles are not read)")
        yield from ((part, file) for file in whole)
