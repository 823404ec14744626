"""Adapters to one adapter. Imports torch and safetensors, never diffusers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from lorakit.adapter import Adapter
from lorakit.deltas.low_rank import LowRank, plain
from lorakit.errors import InputError
from lorakit.io.files import check_target
from lorakit.jobs import adapters
from lorakit.lowrank.compress import compress
from lorakit.registry import MERGE_METHODS


def _merged(name: str, parts: Sequence[LowRank | None], weights: Sequence[float], method: str, rank: int | None) -> tuple[LowRank | None, float]:  # fmt: skip
    present = [part for part in parts if part is not None]
    if len({part.shape for part in present}) > 1:
        raise InputError(
            f"{name}: the adapters are for different base models ({' and '.join(str(p.shape) for p in present)})"
        )
    up, down = MERGE_METHODS[method].merge(parts, weights)
    error, shape = 0.0, present[0].shape
    limit = min(up.shape[0], down.shape[1])
    if up.shape[1] > min(limit, rank or limit):
        up, down, error = compress(up, down, min(limit, rank or limit))
    if up.shape[1] == 0:
        return None, 0.0
    r = up.shape[1]
    return LowRank(down.reshape(r, *shape[1:]), up.reshape(shape[0], r, *[1] * (len(shape) - 2)), float(r)), error


def run(
    arguments: Sequence[str], output: Path, *, alpha: float | None, weights: str | None, method: str, rank: int | None,
    file_format: str, dtype: torch.dtype, force: bool, dry_run: bool, tick: Callable[[int, int], None],
    note: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """The weighted sum of the adapters' deltas, exact where `rank` is None (up to float32)."""
    check_target(output, force=force)
    given = adapters.read_arguments(arguments)
    numbers = [one.weight for one in given]
    if alpha is not None:
        numbers = [alpha, 1 - alpha]
    elif weights is not None:
        numbers = adapters.parse_weights(weights, len(given), "--weights")
    loaded = [adapters.load(one.file) for one in given]
    names = sorted({name for adapter in loaded for name in adapter.modules})
    plains = [{name: plain(delta) for name, delta in adapter.modules.items()} for adapter in loaded]
    modules, errors = {}, {}
    for i, name in enumerate(names):
        merged, error = _merged(name, [adapter.get(name) for adapter in plains], numbers, method, rank)
        if merged is not None:
            modules[name], errors[name] = merged, error
        tick(i + 1, len(names))
    if not modules:
        note("the merged adapter is empty: its weights cancel or are all 0")
    recipe = ", ".join(f"{one.file.name}:{number:g}" for one, number in zip(given, numbers, strict=True))
    base = {
        key: value for key, value in loaded[0].metadata.items() if key.startswith(("ss_base_model", "modelspec.arch"))
    }
    result = Adapter(modules, {**base, "lorakit.merge": f"{method}: {recipe}"})
    if dry_run:
        note(f"{len(modules)} modules would be written to {output}")
        return {"outputs": [], "layers": len(modules), "ranks": {}, "error": 0.0, "unmatched": []}
    adapters.save(output, result, file_format, dtype)
    return {
        "outputs": [str(output)],
        "layers": len(modules),
        "ranks": {name: low.rank for name, low in modules.items()},
        "error": max(errors.values(), default=0.0),
        "unmatched": [],
    }
