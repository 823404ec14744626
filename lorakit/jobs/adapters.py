"""Adapter arguments, files and recipes, as the jobs share them."""

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lorakit import __version__
from lorakit.adapter import Adapter
from lorakit.arrays import narrowed, type_named
from lorakit.deltas.low_rank import plain
from lorakit.errors import InputError, UsageError
from lorakit.families import table
from lorakit.formats import files
from lorakit.formats.adapters._modules import Context
from lorakit.io import safetensors
from lorakit.io.files import existing_file
from lorakit.io.paths import check_adapters, split
from lorakit.registry import ADAPTER_FORMATS

if TYPE_CHECKING:
    import torch

RECIPE_VERSION = 1


@dataclass(frozen=True)
class Weighted:
    """An adapter file at a weight."""

    file: Path
    weight: float

    def sha256(self) -> str:
        with self.file.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


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
    """The adapter of any format lorakit reads, as plain low-rank deltas over torch tensors; a checkpoint counts as one.

    Kinds that are exactly low rank become it by their own factors. InputError names what would not be applied.
    """
    adapter = files.read(file)
    odd = sorted(
        {delta.kind for delta in adapter.modules.values() if not delta.exact} | ({"bias"} if adapter.biases else set())
    )
    if odd:
        raise InputError(
            f"{file}: its {', '.join(odd)} deltas are not low rank, and this command does not apply them yet; make them "
            f"plain first: lorakit convert {file} OUT --approximate RANK --base MODEL"
        )
    if not adapter.modules and not adapter.embeddings:
        raise InputError(f"{file}: there is no adapter in it")
    adapter = adapter.materialised()
    return replace(adapter, modules={name: plain(delta) for name, delta in adapter.modules.items()})


def save(
    file: Path, adapter: Adapter, file_format: str, dtype: "torch.dtype | str | None" = None, family: str | None = None
) -> None:
    """Write the adapter whole, with what clients look for in the metadata.

    dtype   torch's, or its name, "float16"; the scales that a format asks for are applied before the rounding to it
    family  of the base model, where it is known by more than the adapter's modules
    """
    named = adapter.with_metadata(
        **{
            "ss_network_module": "networks.lora",
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.implementation": "diffusers",
            "modelspec.title": "LoRA by lorakit",  # not the name of the file: the same job gives the same bytes
            **adapter.metadata,
            "lorakit.version": __version__,
        }
    )
    encoded = ADAPTER_FORMATS[file_format].encode(
        named, Context.of(named) if family is None else Context(family, table(family))
    )
    if encoded.losses:
        raise InputError(f"{file}: {file_format} files cannot hold all of it: {'; '.join(encoded.losses[:10])}")
    tensors = encoded.tensors
    if dtype is not None:
        tensors = {key: narrowed(x, type_named(str(dtype))) for key, x in tensors.items()}
    safetensors.write(file, tensors, encoded.metadata)


def parse_weights(text: str, count: int, option: str) -> list[float]:
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{option} {text}: expected numbers such as 1,0.5,-0.3") from error
    if len(weights) != count:
        raise UsageError(f"{option} {text}: {len(weights)} weights for {count} adapters")
    return weights
