"""Base models as files hold them: a diffusers folder or a single file, by our names of their parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lorakit.arrays import Array, Stored
from lorakit.errors import InputError
from lorakit.formats import foreign
from lorakit.formats.layouts import folder, original
from lorakit.formats.layouts.place import KeyRule, ParameterPlace
from lorakit.io import pickles, safetensors
from lorakit.targets import PARTS

__all__ = ["FOLDER", "SINGLE", "UNET_FILE", "KeyRule", "Model", "ParameterPlace", "open_model", "open_vae"]

SINGLE, FOLDER, UNET_FILE = "single file", "diffusers folder", "diffusers UNet"
CHECKPOINTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A base model on disk; nothing of its weights is read until an array is used.

    layout     "diffusers folder", "single file", or "diffusers UNet" (a file with a UNet alone)
    files      path inside the folder ("unet/diffusion_pytorch_model.safetensors"; "" for a single file) to its tensors
    places     every parameter by our name ("unet.conv_in.weight") to where it lies
    metadata   of a single file; of a pickle the texts that stand beside its tensors
    """

    path: Path
    layout: str
    files: Mapping[str, Mapping[str, Array]]
    places: Mapping[str, ParameterPlace]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def weights(self, parts: tuple[str, ...] = PARTS) -> dict[str, Stored]:
        """Module ("unet.down_blocks.0...to_q") to its weight, for linear layers and convolutions."""
        return {
            name.removesuffix(".weight"): array
            for name, array in self._arrays.items()
            if name.partition(".")[0] in parts and _is_weight(name, array)
        }

    def others(self, parts: tuple[str, ...] = PARTS) -> dict[str, Stored]:
        """Parameter ("unet.conv_in.bias") to its values: biases, norms and embeddings."""
        return {
            name: array
            for name, array in self._arrays.items()
            if name.partition(".")[0] in parts and not _is_weight(name, array)
        }

    @cached_property
    def _arrays(self) -> dict[str, Stored]:
        return {name: place.array for name, place in self.places.items()}

    @property
    def is_folder(self) -> bool:
        return self.layout == FOLDER

    @property
    def tensors(self) -> Mapping[str, Array]:
        """All tensors of a single file, by their keys there."""
        return self.files[""]

    @property
    def arrays(self) -> Mapping[str, Stored]:
        """Every parameter, the autoencoder's too."""
        return self._arrays

    def leftovers(self) -> list[tuple[str, str]]:
        """(file, key) of tensors that are no parameter we know: position_ids, EMA copies, schedules."""
        known = {(place.file, place.rule.key) for place in self.places.values()}
        return [(file, key) for file, tensors in self.files.items() for key in tensors if (file, key) not in known]


def _is_weight(name: str, array: Stored) -> bool:
    return name.endswith(".weight") and array.ndim > 1 and not name.endswith("_embedding.weight")


def open_model(name: str | Path, find: Callable[[str], Path] | None = None) -> Model:
    """The model of a checkpoint file or a diffusers folder; `find` gives the folder of other names (hub, built in).

    InputError for what is no base model.
    """
    path = Path(name)
    if path.is_file() or path.suffix in CHECKPOINTS:
        return _open_file(path)
    return _open_folder(find(str(name)) if find is not None else path)


def _open_file(path: Path) -> Model:
    tensors, metadata = _read(path)
    foreign.check_keys(tensors.keys(), path)
    if any(key.startswith(original.UNET) for key in tensors):
        layout, rules = SINGLE, original.found(tensors.keys())
    elif "conv_in.weight" in tensors and "conv_norm_out.weight" in tensors:
        layout, rules = UNET_FILE, folder.found("unet", tensors.keys())
    else:
        raise InputError(f"{path}: no base model in it: expected keys such as {original.UNET}input_blocks.0.0.weight")
    return Model(
        path=path, layout=layout, files={"": tensors}, places=_places(path, "", tensors, rules), metadata=metadata
    )


def _open_folder(path: Path) -> Model:
    if not path.is_dir():
        raise InputError(f"{path}: no such model folder or checkpoint")
    foreign.check_index(path)
    files: dict[str, Mapping[str, Array]] = {}
    places: dict[str, ParameterPlace] = {}
    for part, paths in folder.files(path).items():
        for file in paths:
            tensors, _ = _read(file)
            label = f"{part}/{file.name}"
            files[label] = tensors
            places |= _places(file, label, tensors, folder.found(part, tensors.keys()))
    return Model(path=path, layout=FOLDER, files=files, places=places)


def open_vae(place: Path) -> Mapping[str, Stored]:
    """The parameters of an autoencoder by our names ("vae.encoder.conv_in.weight"): of a folder of weights, or of a file with
    it alone, in either spelling, or with a whole model. InputError where there is none."""
    if place.is_dir():
        paths = folder.weights_in(place)
        places = [_places(x, x.name, t, folder.found("vae", t.keys())) for x in paths for t, _ in [_read(x)]]
        found = {name: one.array for part in places for name, one in part.items()}
    else:
        tensors, _ = _read(place)
        inside = {key: x for key, x in tensors.items() if key.startswith(original.VAE)}
        if not inside and any(".down_blocks." in key for key in tensors):
            rules = folder.found("vae", tensors.keys())
        else:
            tensors = inside or {f"{original.VAE}{key}": x for key, x in tensors.items()}
            rules = original.found(tensors.keys())
        found = {name: one.array for name, one in _places(place, "", tensors, rules).items()}
    if not any(name.startswith("vae.decoder.") for name in found):
        raise InputError(f"{place}: no autoencoder in it")
    return found


def _read(path: Path) -> tuple[Mapping[str, Array], dict[str, str]]:
    if pickles.is_pickle(path, "model"):
        return pickles.state(pickles.read(path, "model"))
    file = safetensors.open_file(path, "model weights")
    return file, file.metadata


def _places(path: Path, label: str, tensors: Mapping[str, Array], rules: list[KeyRule]) -> dict[str, ParameterPlace]:
    """InputError where two tensors are the same parameter."""
    places: dict[str, ParameterPlace] = {}
    for rule in rules:
        if rule.ours in places and places[rule.ours].rule.key != rule.key:
            raise InputError(f"{path}: {places[rule.ours].rule.key} and {rule.key} are both {rule.ours}")
        places[rule.ours] = ParameterPlace(rule, label, tensors)
    return places
