"""What a file is: adapter, learned token or base model. Imports no torch unless a pickle is read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lorakit import process_config
from lorakit.adapter import Adapter
from lorakit.architectures import kind_of
from lorakit.arrays import dtype_of, finite
from lorakit.delta import Delta, NeedsBase
from lorakit.deltas.low_rank import LowRank
from lorakit.errors import InputError, faults_together
from lorakit.families import FAMILIES
from lorakit.formats import checkpoints, files, foreign, listed, trainers, triggers
from lorakit.formats.adapters import decode
from lorakit.formats.clients import Coverage, coverages
from lorakit.formats.evidence import family_of
from lorakit.io import pickles, safetensors
from lorakit.io.plain import read_json
from lorakit.spellings import part_of, place_of, stranger
from lorakit.talk import Note

_BASE_KEYS = ("ss_sd_model_name", "ss_base_model_version", "modelspec.architecture", "base_model_name_or_path")
_TAGS = 10  # the commonest are told


def run(paths: list[Path], *, verify: bool, note: Note) -> dict[str, Any]:
    """A description of each file; with `verify`, InputError where one is not the bytes its own hash is of."""
    described = faults_together(lambda path: inspect(path, verify=verify), paths)
    broken = [one["file"] for one in described if verify and one["hash_matches"] is False]
    if broken:
        raise InputError(
            f"{', '.join(broken)}: the tensors are not those that the hash in the metadata is of; damaged?"
        )
    return {"outputs": [], "files": described}


def inspect(path: Path, *, verify: bool = False) -> dict[str, Any]:
    """What one file or folder is, as plain values."""
    if path.is_dir() and (path / "model_index.json").is_file():
        return _model_folder(path)
    tensors, metadata = files.contents(path)
    if not any("lora" in key for key in tensors):
        foreign.check_keys(tensors.keys(), path)
    model = checkpoints.describe(tensors, metadata)
    adapter = (
        files.named(decode(tensors, metadata, str(path)), path.stem)
        if model is None
        else Adapter(modules={}, metadata=metadata)
    )
    hashed = path.is_file() and not (pickles.is_pickle(path) or files.is_picture(path) or listed.is_list(path))
    with ThreadPoolExecutor(1) as pool:
        # A checkpoint of gigabytes is read whole only on demand.
        digest = pool.submit(safetensors.data_hash, path) if hashed and (verify or model is None) else None
        found = _checkpoint(model, metadata) if model is not None else _adapter(adapter)
        value = digest.result() if digest else None
    recorded = next((metadata[key].removeprefix("0x") for key in safetensors.HASHES if key in metadata), None)
    words = triggers.of_adapter(replace(adapter, metadata={**triggers.beside(path), **adapter.metadata}))
    return {
        "file": str(path),
        "bytes": _size(path),
        **found,
        **_told(words, adapter.metadata),
        "tensors": len(tensors),
        "hash_sha256": value,
        "hash_recorded": recorded,
        "hash_matches": None if value is None or recorded is None else value == recorded,
        "metadata": dict(metadata),
    }


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _checkpoint(model: checkpoints.Description, metadata: Mapping[str, str]) -> dict[str, Any]:
    return {
        "kind": "base model",
        "format": model.layout,
        "family": model.family,
        "evidence": model.evidence,
        "parts": list(model.parts),
        **_process(model.scheduler),
        "inpainting": model.inpainting,
        "dtypes": model.dtypes,
        "notes": [],
        "faults": [],
    }


def _process(scheduler: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a model says of its diffusion process; None where it says nothing."""
    if scheduler is None:
        return {"prediction_type": None, "process": None, "zero_snr": None, "shift": None, "timestep_spacing": None}
    other = process_config.unknown(scheduler)
    return {
        "prediction_type": process_config.prediction_of(scheduler),
        "process": f"has the scheduler {other}, which lorakit does not know"
        if other
        else process_config.words(scheduler),
        "zero_snr": process_config.ends_in_noise(scheduler),
        "shift": process_config.shift_said(scheduler) if process_config.is_flow(scheduler) else None,
        "timestep_spacing": scheduler.get("timestep_spacing"),
    }


def _model_folder(folder: Path) -> dict[str, Any]:
    """A diffusers folder: its UNet's header tells the family, its scheduler the prediction."""
    foreign.check_index(folder)
    unet = next(iter(sorted((folder / "unet").glob("*.safetensors"))), None)
    if unet is None:
        raise InputError(f"{folder}: no safetensors weights in its unet folder")
    file = safetensors.open_file(unet, "model weights")
    model = checkpoints.describe(dict(file.items()), file.metadata)
    if model is None:
        raise InputError(f"{unet}: not the UNet of a Stable Diffusion")
    index = read_json(folder / "model_index.json", "model's index")
    found, notes = _checkpoint(model, {}), files.notes_of_model(folder)
    parts = sorted(key for key, value in index.items() if isinstance(value, list) and value and value[0])
    return {
        "file": str(folder),
        "bytes": _size(folder),
        **found,
        **_told(triggers.read(notes), notes),
        "format": "diffusers folder",
        "parts": parts,
        **_process(checkpoints.scheduler_of_folder(folder)),
        "tensors": len(file.keys()),
        "hash_sha256": None,
        "hash_recorded": None,
        "hash_matches": None,
        "metadata": notes,
    }


def _adapter(adapter: Adapter) -> dict[str, Any]:
    guess = family_of(adapter)
    norms = [_norm(delta) for delta in adapter.modules.values()]  # the hash has the other core
    modules = [_module(name, delta, norm) for (name, delta), norm in zip(adapter.modules.items(), norms, strict=True)]
    bad = [m["name"] for m in modules if m["norm"] is not None and not math.isfinite(m["norm"])]
    known = [m for m in modules if m["norm"] is not None and m["name"] not in bad]
    for one in modules:
        if one["name"] in bad:
            one["norm"] = None  # JSON has no NaN
    everything = [x for delta in adapter.modules.values() for x in delta.arrays().values()]
    return {
        "kind": "embedding" if _is_embedding(adapter) else "adapter",
        "format": adapter.format,
        "family": next(iter((*guess.families, *guess.architectures)), None),
        "trainer": trainers.of(adapter),
        "evidence": guess.evidence,
        "components": _counted(part_of(m["name"]) for m in modules),
        "kinds": _counted(m["kind"] for m in modules),
        "ranks": _counted(m["rank"] for m in modules if m["rank"]),
        "alphas": _counted(m["alpha"] for m in modules if m["alpha"] is not None),
        "scales": _counted(m["scale"] for m in modules if m["scale"] is not None),
        "dtypes": _counted(map(dtype_of, everything)),
        "parameters": sum(d.parameters for d in adapter.modules.values()),
        "norm": math.hypot(*(m["norm"] for m in known)),
        "blocks": _blocks(known),
        "dead": [m["name"] for m in known if m["norm"] == 0],
        "nonfinite": [*bad, *_bad_others(adapter)],
        "tokens": _tokens(adapter),
        "biases": sorted(adapter.biases),
        "unknown": sorted(adapter.unknown),
        "base": {key: adapter.metadata[key] for key in _BASE_KEYS if key in adapter.metadata},
        "clients": {c.client: {"right": c.right, "of": c.expected, "wrong": c.reasons()} for c in _coverages(adapter)},
        "notes": list(adapter.notes),
        "faults": list(adapter.faults),
        "modules": modules,
    }


def _coverages(adapter: Adapter) -> list[Coverage]:
    """What each client makes of it; of a file with faults that is not known."""
    return [] if adapter.faults else coverages(adapter)


def _is_embedding(adapter: Adapter) -> bool:
    """Whether it is learned tokens and nothing else."""
    if adapter.modules or adapter.biases:
        return False
    return bool(adapter.embeddings) or adapter.format.endswith("-embedding")


def _norm(delta: Delta) -> float | None:
    """The norm of the delta; None where it depends on the base model."""
    if isinstance(delta, LowRank):  # the hot path: float32 is plenty for people to look at
        up, down = (np.asarray(x) for x in delta.flat())
        gram = np.vdot(up.T @ up, down @ down.T)
        return float(math.nan if not np.isfinite(gram) else math.sqrt(max(0.0, float(gram))) * abs(delta.scale))
    try:
        return delta.norm()
    except NeedsBase:
        return None


def _module(name: str, delta: Delta, norm: float | None) -> dict[str, Any]:
    alpha, scale = getattr(delta, "alpha", None), getattr(delta, "scale", None)
    return {
        "name": name,
        "kind": delta.kind,
        "shape": list(delta.shape) if delta.shape else None,
        "rank": delta.rank,
        "alpha": alpha,
        "scale": scale,
        "norm": norm,
    }


def _counted(values: Any) -> dict[str, int]:
    counts = Counter(values)
    return {f"{v:g}" if isinstance(v, float) else str(v): n for v, n in sorted(counts.items(), key=lambda i: -i[1])}


def block_of(name: str) -> str:
    """ "unet.down_blocks.1.attentions.0..." as "unet down.1"; a text encoder is one block, and of an architecture without
    tables all blocks of a kind: "double_blocks"."""
    if (spelled := stranger(name)) is not None:
        return kind_of(spelled.path)
    part, _, path = place_of(name).partition(".")
    if part != "unet":
        return part
    head, _, rest = path.partition(".")
    number = rest.partition(".")[0]
    way = head.removesuffix("_blocks").removesuffix("_block")
    if head in ("down_blocks", "up_blocks"):
        return f"unet {way}.{number}"
    return "unet mid" if head == "mid_block" else "unet other"


def _blocks(modules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    blocks: dict[str, list[dict[str, Any]]] = {}
    for one in modules:
        blocks.setdefault(block_of(one["name"]), []).append(one)
    return [
        {
            "block": block,
            "modules": len(blocks[block]),
            "norm": math.hypot(*(m["norm"] for m in blocks[block])),
            "largest": max(blocks[block], key=lambda m: m["norm"])["name"],
        }
        for block in in_order(blocks)
    ]


def in_order(blocks: Iterable[str]) -> list[str]:
    """As data goes through the UNet, then the text encoders."""
    order = {way: i for i, way in enumerate(("other", "down", "mid", "up"))}

    def place(block: str) -> tuple[bool, int, str]:
        part, _, where = block.partition(" ")
        return part != "unet", order.get(where.partition(".")[0], 9), block

    return sorted(blocks, key=place)


def _bad_others(adapter: Adapter) -> list[str]:
    """The biases and learned tokens with NaN or infinity in them."""
    found = [f"the bias of {name}" for name, x in adapter.biases.items() if not finite(x)]
    return found + [f"token {token}" for token, by in adapter.embeddings.items() if not all(map(finite, by.values()))]


def _tokens(adapter: Adapter) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for token, by_part in adapter.embeddings.items():
        for part, array in by_part.items():
            vectors = np.asarray(array.float()).reshape(-1, array.shape[-1])
            norms = [round(float(n), 4) if np.isfinite(n) else None for n in np.linalg.norm(vectors, axis=1)]
            found.setdefault(token, {})[part] = {"vectors": len(vectors), "width": vectors.shape[1], "norms": norms}
    return found


def _told(words: triggers.Triggers, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the file says of its use: `trigger_words` are sure, `triggers` has the commonest tags of the captions too."""
    tags = dict(words.tags[:_TAGS])
    return {
        "title": metadata.get(triggers.TITLE),
        "usage_hint": metadata.get(triggers.HINT),
        "trigger_words": words.words,
        "triggers": list(dict.fromkeys([*words.phrases, *tags])),
        "tags": tags,
    }


def title(family: str | None) -> str:
    return FAMILIES[family].title if family else "unknown family"
