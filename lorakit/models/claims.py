"""What a model's configs claim, against what its weights' headers say: before anything of that size is built."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from lorakit.bounds import MOST_SIDE, Bound
from lorakit.errors import InputError, some
from lorakit.io.plain import read_json

_USUAL_SIDE = 65536  # sizes up to here need no tensor that is so large
_MOST_TIMESTEPS = 100_000
_MOST_BLOCKS = 16
_SCHEDULE = {
    "num_train_timesteps": Bound(int, 1, _MOST_TIMESTEPS),
    "steps_offset": Bound(int, 0, 1000),
    "beta_start": Bound(float, 0, 1),
    "beta_end": Bound(float, 0, 1),
}
_CHOICES = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
}
_SIZES = ("_size", "_dim", "_channels", "_features", "_positions", "_embeddings", "_units", "_heads")
_COUNTS = ("layers", "depth", "blocks")
_MULTIPLIED = ("layers_per_block", "transformer_layers_per_block", "reverse_transformer_layers_per_block")


def check_config(config: Mapping[str, Any], shapes: Iterable[tuple[int, ...]], where: Path | str) -> None:
    """InputError where a config asks for more layers than its weights have tensors, or for sizes that none of them has.

    shapes  of the weights, as their file's header says
    """
    sides = [max(shape, default=1) for shape in shapes]
    wrong = []
    for key, value in _numbers(config):
        most = len(sides) if any(word in key for word in _COUNTS) else None
        if key.endswith(_SIZES):
            most = max([_USUAL_SIDE, *sides])
        if most is not None and value > most:
            wrong.append(f"{key} is {value}, and the weights have at most {most}")
    blocks = config.get("block_out_channels")
    counts = [len(blocks) if isinstance(blocks, list) else 1]
    counts += [max((n for _, n in _numbers({key: config.get(key)})), default=1) for key in _MULTIPLIED]
    if not wrong and prod(max(1, count) for count in counts) > len(sides):
        wrong.append(f"{' x '.join(map(str, counts))} layers, and the weights have {len(sides)} tensors")
    if wrong:
        raise InputError(f"{where}: {some(wrong, 3, '; ')}")


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """(key, whole number) of a config, of lists and tables in it too; their depth is bounded where they are read."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, list):
            yield from _numbers({f"{i} {key}": one for i, one in enumerate(value)})
        elif isinstance(value, int) and not isinstance(value, bool):
            yield key, value


def check_folder(folder: Path) -> None:
    """The same for a folder with a config.json and safetensors files."""
    from lorakit.io import safetensors  # brings numpy, and models/config must name a missing model without it

    shapes = [x.shape for file in sorted(folder.glob("*.safetensors")) for x in safetensors.open_file(file).values()]
    if shapes:
        check_config(read_json(folder / "config.json", "model's config"), shapes, folder / "config.json")


def check_described(configs: Mapping[str, Mapping[str, Any]], place: Path) -> None:
    """InputError where the configs of a Stable Diffusion lack the numbers that are needed before it is loaded, or they
    cannot be."""
    wrong = []
    for path in ("unet/config.json", "vae/config.json"):
        widths = configs[path].get("block_out_channels")
        if not isinstance(widths, list) or not 1 <= len(widths) <= _MOST_BLOCKS:
            wrong.append(f"{path}: block_out_channels must be a list of 1 to {_MOST_BLOCKS} numbers")
    if not wrong:
        most = MOST_SIDE >> (len(configs["vae/config.json"]["block_out_channels"]) - 1)
        sides = Bound(int, 1, max(1, most))
        wrong += _out_of(sides, "unet/config.json", "sample_size", configs["unet/config.json"].get("sample_size"))
    wrong += _schedule(configs["scheduler/scheduler_config.json"]) + _latents(configs["vae/config.json"])
    for path in ("text_encoder/config.json", "text_encoder_2/config.json"):
        if (key := "max_position_embeddings") in configs.get(path, {}):
            wrong += _out_of(Bound(int, 1, _USUAL_SIDE), path, key, configs[path][key])
    if wrong:
        raise InputError(f"{place}: {some(wrong, 3, chr(10))}")


def _latents(config: Mapping[str, Any]) -> list[str]:
    """What of an autoencoder's config no latents can be scaled by."""
    channels, wrong = config.get("latent_channels", 4), []
    for key in ("scaling_factor", "shift_factor"):
        value = config.get(key)
        if value is not None and (not _finite(value) or (key == "scaling_factor" and value <= 0)):
            wrong.append(f"vae/config.json: {key} is {str(value)[:40]}")
    for key in ("latents_mean", "latents_std"):
        row, above = config.get(key), key == "latents_std"
        numbers = (
            isinstance(row, list) and len(row) == channels and all(_finite(x) and (x > 0 or not above) for x in row)
        )
        if row is not None and not numbers:
            wrong.append(f"vae/config.json: {key} must be a list of {channels} numbers{' above 0' if above else ''}")
    return wrong


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _schedule(config: Mapping[str, Any]) -> list[str]:
    """What of a scheduler's config no noise schedule can be made of."""
    wrong = []
    for key, bound in _SCHEDULE.items():
        wrong += _out_of(bound, "scheduler/scheduler_config.json", key, config.get(key, bound.least))
    for key, known in _CHOICES.items():
        if config.get(key, known[0]) not in known:
            wrong.append(
                f"scheduler/scheduler_config.json: {key} is {str(config[key])[:40]}; there are {', '.join(known)}"
            )
    betas = config.get("trained_betas")
    if betas is not None and (not isinstance(betas, list) or not 1 <= len(betas) <= _MOST_TIMESTEPS):
        wrong.append(
            f"scheduler/scheduler_config.json: trained_betas must be a list of up to {_MOST_TIMESTEPS} numbers"
        )
    return wrong


def _out_of(bound: Bound, path: str, key: str, value: Any) -> list[str]:
    """What is wrong with a config's number, a line; nothing where it is within bounds."""
    try:
        bound.check(value)
    except ValueError as error:
        return [f"{path}: {key} is {str(value)[:40]}, {error}"]
    return []
