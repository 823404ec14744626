"""Another autoencoder in a written model, in the place of its own (`merge --into --vae`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorakit.arrays import Stored
from lorakit.errors import InputError, UsageError, some
from lorakit.formats.layouts import Model
from lorakit.formats.layouts import describe as _describe
from lorakit.io.plain import read_json
from lorakit.models.vae import open_vae
from lorakit.talk import Note

CONFIG = "vae/config.json"


def another_vae(name: str, base: Model, note: Note) -> tuple[dict[str, Stored], dict[str, Any]]:
    """The parameters of the autoencoder called `name` by our names, and its config.

    raises  InputError for one that is not built as the model's own is; UsageError where the model has none
    """
    own = {key: x for key, x in base.arrays.items() if key.startswith("vae.")}
    if not own:
        raise UsageError(f"--vae {name}: {base.path} has no autoencoder that it could take the place of")
    _, config, found = open_vae(name, _config(base), note)
    given = {key: x for key, x in found.items() if key.startswith("vae.")}
    odd = sorted(
        key
        for key in own.keys() | given.keys()
        if key not in own or key not in given or own[key].shape != given[key].shape
    )
    if odd:
        raise InputError(f"--vae {name} is not built as the autoencoder of {base.path} is: {some(odd, 3)}")
    return given, config


def _config(base: Model) -> Mapping[str, Any]:
    """Of the model's own autoencoder."""
    if base.is_folder:
        return read_json(base.path / CONFIG, "autoencoder's config")
    return _describe.configs_told(base, _describe.plain_configs(base, "epsilon"))[CONFIG]
