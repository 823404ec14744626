"""An autoencoder from elsewhere, in the place of a model's own (--vae): where it lies, its config and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorakit.errors import InputError, LorakitError
from lorakit.io.plain import read_json
from lorakit.models import hub
from lorakit.models.places import check_name, folder_of, is_checkpoint
from lorakit.talk import Note

if TYPE_CHECKING:
    from lorakit.arrays import Stored

_WANTED = ("config.json", "*.safetensors", "vae/config.json", "vae/*.safetensors")
_REFUSED = ("*fp16*", "unet/*", "text_encoder*/*", "transformer/*")


def check_vae(name: str | None) -> None:
    """Raise an error that names --vae for what can be no autoencoder, before anything is fetched or loaded."""
    if name is None:
        return
    try:
        check_name(name)
        if Path(name).is_dir():
            _inside(Path(name))
    except LorakitError as error:
        raise type(error)(f"--vae {error}") from None


def _inside(folder: Path) -> Path:
    """The folder of the autoencoder: this one, or the one in a model's."""
    for place in (folder / "vae", folder):
        if (place / "config.json").is_file():
            return place
    raise InputError(f"{folder}: no autoencoder in it: it has neither config.json nor vae/config.json")


def _place(name: str) -> Path:
    """The file, or the folder with config.json and weights; fetched from the hub where it must be."""
    check_vae(name)
    if is_checkpoint(name):
        return Path(name)
    if name == "tiny" or Path(name).is_dir():
        return _inside(folder_of(name) if name == "tiny" else Path(name))
    return _inside(hub.snapshot(hub.ALIASES.get(name, name), _WANTED, _REFUSED, f"--vae {name}", cache_first=False))


def open_vae(name: str, own: Mapping[str, Any], note: Note) -> tuple[Path, dict[str, Any], Mapping[str, Stored]]:
    """Where it lies, its config, and its parameters by our names ("vae.encoder.conv_in.weight").

    own      config of the model's own autoencoder; what a single file is, which says nothing of itself, is taken from it
    raises   InputError where there is none, or one for other latents than the model's
    """
    from lorakit.formats.layouts import open_vae as opened

    place = _place(name)
    config = dict(own) if place.is_file() else read_json(place / "config.json", "autoencoder's config")
    for key, what in (("latent_channels", "channels of latents"), ("block_out_channels", "sizes of blocks")):
        mine, its = (one.get(key) for one in (own, config))
        if (len(mine) if isinstance(mine, list) else mine) != (len(its) if isinstance(its, list) else its):
            raise InputError(
                f"--vae {name} has other {what} than the model: {its}, not {mine}; it is for another family"
            )
    note(f"the autoencoder is that of {place}, in the place of the model's own")
    factors = [float(one.get("scaling_factor", 0.18215)) for one in (own, config)]
    if factors[0] != factors[1]:
        note(
            f"--vae {name} scales latents by {factors[1]:g}, the model's own by {factors[0]:g}: is it for this family?"
        )
    return place, config, opened(place)
