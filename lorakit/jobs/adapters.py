"""Adapter arguments, files and recipes, as the jobs share them."""

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lorakit import __version__
from lorakit.adapter import Adapter
from lorakit.deltas.low_rank import LowRank
from lorakit.errors import InputError, UsageError
from lorakit.formats.adapters import decode
from lorakit.io import tensors
from lorakit.io.files import existing_file
from lorakit.io.paths import check_adapters, split
from lorakit.registry import ADAPTER_FORMATS

RECIPE_VERSION = 1


@dataclass(frozen=True)
class Weighted:
    """An adapter file at a weight."""

    file: Path
    weight: float

    def sha256(self) -> str:
        return hashlib.sha256(self.file.read_bytes()).hexdigest()


def read_recipe(file: Path) -> list[Weighted]:
    """The adapters of a composition, paths relative to the recipe; strict: an unknown key is an error."""
    try:
        recipe = tomllib.loads(existing_file(file, "recipe").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a recipe: {error}") from error
    unknown = sorted(set(recipe) - {"lorakit", "adapter"})
    if unknown or recipe.get("lorakit") != RECIPE_VERSION or not recipe.get("adapter"):
        raise InputError(
            f"{file}: expected lorakit = {RECIPE_VERSION} and [[adapter]] tables"
            + (f"; unknown: {unknown}" if unknown else "")
        )
    out = []
    for number, entry in enumerate(recipe["adapter"], 1):
        wrong = sorted(set(entry) - {"name", "path", "weight", "sha256"})
        weight = entry.get("weight", 1.0)
        if (
            wrong
            or not isinstance(entry.get("path"), str)
            or isinstance(weight, bool)
            or not isinstance(weight, int | float)
        ):
            raise InputError(
                f"{file}: adapter {number}: expected path and weight"
                + (f"; unknown: {', '.join(wrong)}" if wrong else "")
            )
        one = Weighted(existing_file(file.parent / entry["path"], "adapter"), float(weight))
        if "sha256" in entry and entry["sha256"] != one.sha256():
            raise InputError(f"{file}: {one.file} is not the file the recipe was made with (sha256 differs)")
        out.append(one)
    return out


def read_arguments(arguments: Sequence[str]) -> list[Weighted]:
    """Adapter files and recipes, flattened; a recipe's weights are multiplied by its own. All missing ones are named."""
    out: list[Weighted] = []
    check_adapters(arguments)
    for path, weight in map(split, arguments):
        if Path(path).suffix == ".toml":
            out += [Weighted(one.file, one.weight * weight) for one in read_recipe(Path(path))]
        else:
            out.append(Weighted(Path(path), weight))
    return out


def load(file: Path) -> Adapter:
    """The adapter of any format lorakit reads; a training checkpoint counts as one."""
    content, metadata = tensors.read(file, "adapter")
    if "lorakit.checkpoint" in metadata:
        from lorakit.models.inject import collect

        prefix = "parameter/"
        parameters = {key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)}
        if not any(name.endswith(".down") for name in parameters):
            raise InputError(f"{file} is a checkpoint of full training; it holds no adapter")
        return Adapter(collect(parameters, float(metadata.get("lorakit.scale", "1"))), metadata)
    return decode(content, metadata, str(file))


def save(file: Path, adapter: Adapter, file_format: str, dtype: torch.dtype | None = None) -> None:
    """Write the adapter whole, with what clients look for in the metadata."""
    if dtype is not None:
        adapter = Adapter(
            {k: LowRank(m.down.to(dtype), m.up.to(dtype), m.alpha) for k, m in adapter.modules.items()},
            adapter.metadata,
        )
    ranks = {m.rank for m in adapter.modules.values()}
    alphas = {m.alpha for m in adapter.modules.values()}
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(max(ranks, default=0)) if len(ranks) <= 1 else "Dynamic",
        "ss_network_alpha": str(next(iter(alphas))) if len(alphas) == 1 else "Dynamic",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "LoRA by lorakit",  # not the name of the file: the same job gives the same bytes
        **adapter.metadata,
        "lorakit.version": __version__,
    }
    tensors.save(file, ADAPTER_FORMATS[file_format].encode(adapter), metadata)


def parse_weights(text: str, count: int, option: str) -> list[float]:
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{option} {text}: expected numbers such as 1,0.5,-0.3") from error
    if len(weights) != count:
        raise UsageError(f"{option} {text}: {len(weights)} weights for {count} adapters")
    return weights
