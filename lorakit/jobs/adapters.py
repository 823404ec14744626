"""Adapter arguments, files and recipes, as the jobs share them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lorakit import __version__
from lorakit.adapter import Adapter
from lorakit.arrays import narrowed, type_named
from lorakit.composition import Member
from lorakit.deltas.low_rank import plain
from lorakit.errors import InputError, UsageError, faults_together, some, told_once
from lorakit.formats import files, recipes
from lorakit.formats.adapters._modules import Context
from lorakit.io import safetensors
from lorakit.io.inputs import sha256_of
from lorakit.io.paths import check_adapters, is_recipe, split
from lorakit.registry import ADAPTER_FORMATS

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Weighted:
    """An adapter file at a weight; of a recipe, with factors by part, block and layer."""

    file: Path
    weight: float
    member: Member | None = None

    def sha256(self) -> str:
        return sha256_of(self.file)

    def scaled(self, adapter: Adapter) -> Adapter:
        """The adapter with the recipe's factors in its deltas; a module at 0 is left out."""
        if self.member is None:
            return adapter
        modules = {}
        for name, delta in adapter.modules.items():
            factor = self.member.factor(name)
            if factor not in (0, 1):
                if not delta.exact:
                    raise InputError(
                        f"{self.file}: {name} is a {delta.kind} delta, which a recipe cannot weigh by itself"
                    )
                low = plain(delta)
                delta = replace(low, alpha=low.alpha * factor)
            if factor:
                modules[name] = delta
        return replace(adapter, modules=modules)


def read_arguments(arguments: Sequence[str | Weighted]) -> list[Weighted]:
    """Adapter files and recipes, flattened; a recipe's weights are multiplied by its own. All missing ones are named.

    InputError for a recipe that is no one adapter at each moment: it changes with the step or the place.
    """
    out: list[Weighted] = []
    check_adapters(one for one in arguments if isinstance(one, str))
    for weighted in faults_together(_read_argument, arguments):
        out += weighted
    return out


def _read_argument(one: str | Weighted) -> list[Weighted]:
    if isinstance(one, Weighted):
        return [one]
    path, weight = split(one)
    if not is_recipe(path):
        return [Weighted(Path(path), weight)]
    composition = recipes.read(Path(path))
    if not composition.constant:
        raise InputError(f"{path} cannot be one adapter: {'; '.join(composition.why_not_constant())}")
    return [Weighted(m.path, m.weight * weight, m) for m in composition.members]


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
    file: Path, adapter: Adapter, file_format: str, dtype: "torch.dtype | str | None" = None,
    families: Sequence[str] | None = None, *, dry_run: bool = False,
) -> None:  # fmt: skip
    """Write the adapter whole, with what clients look for in the metadata.

    dtype     torch's, or its name, "float16"; the scales that a format asks for are applied before the rounding to it
    families  that the adapter can be for, the likeliest first, where more is known than its modules tell
    dry_run   do all of it but the writing
    raises    InputError for what the format cannot hold
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
    encoded = ADAPTER_FORMATS[file_format].encode(named, Context.of(named, families))
    if encoded.losses:
        raise InputError(
            f"{file}: {file_format} files cannot hold all of it: {some(told_once(encoded.losses), 10, '; ')}"
        )
    tensors = encoded.tensors
    if dtype is not None:
        tensors = {key: narrowed(x, type_named(str(dtype))) for key, x in tensors.items()}
    (safetensors.check if dry_run else safetensors.write)(file, tensors, encoded.metadata)


def parse_weights(text: str, count: int, option: str) -> list[float]:
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{option} {text}: expected numbers such as 1,0.5,-0.3") from error
    if len(weights) != count:
        raise UsageError(f"{option} {text}: {len(weights)} weights for {count} adapters")
    return weights
