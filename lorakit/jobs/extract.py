"""What fine-tuning changed, as an adapter: two models compared, or a checkpoint's adapter taken out."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorakit.adapter import Adapter
from lorakit.deltas.low_rank import LowRank, plain
from lorakit.errors import InputError
from lorakit.io import tensors
from lorakit.io.files import check_target
from lorakit.jobs import adapters
from lorakit.lowrank.compress import spectrum
from lorakit.lowrank.factorize import factorize, rank_for_energy
from lorakit.models.config import folder_of, weight_files
from lorakit.targets import kohya_name_of


def _deltas(tuned: str, base: str, note: Callable[[str], None]) -> Iterator[tuple[str, Tensor]]:
    """(module, dense delta float32) of each weight that differs; other changes are noted."""
    known, skipped = kohya_name_of(), []
    for (part, ours), (_, theirs) in zip(weight_files(folder_of(tuned)), weight_files(folder_of(base)), strict=True):
        with tensors.opened(ours, "model weights") as a, tensors.opened(theirs, "model weights") as b:
            missing = sorted(set(a.keys()) ^ set(b.keys()))
            if missing:
                raise InputError(f"{tuned} and {base} are not the same kind of model: {missing[0]} is in one only")
            for key in sorted(a.keys()):
                x, y = a.get_tensor(key), b.get_tensor(key)
                if x.shape != y.shape:
                    raise InputError(f"{tuned} and {base} differ in shape at {key}: {tuple(x.shape)}, {tuple(y.shape)}")
                if torch.equal(x, y):
                    continue
                module = f"{part}.{key.removesuffix('.weight')}"
                if key.endswith(".weight") and x.ndim in (2, 4) and module in known:
                    yield module, x.float() - y.float()
                else:
                    skipped.append(key)
    if skipped:
        note(
            f"{len(skipped)} changed tensors are biases, norms or embeddings, which an adapter does not hold: {skipped[0]} ..."
        )


def _low(delta_shape: tuple[int, ...], up: Tensor, down: Tensor) -> LowRank:
    r = up.shape[1]
    return LowRank(
        down.reshape(r, *delta_shape[1:]), up.reshape(up.shape[0], r, *[1] * (len(delta_shape) - 2)), float(r)
    )


def run(
    tuned: str, output: Path, *, base: str | None, rank: int | None, energy: float | None, file_format: str,
    force: bool, dry_run: bool, tick: Callable[[int, int], None], note: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """The nearest adapter of the asked rank or energy; without a base, TUNED's own adapter, re-ranked if asked."""
    check_target(output, force=force)
    modules, kept, metadata = {}, {}, {}
    if base is not None:
        wanted = rank if rank or energy else 32
        changed = _deltas(tuned, base, note)
        for i, (name, delta) in enumerate(changed):
            up, down, s = factorize(delta.flatten(1), _rank_of(wanted, energy, delta))
            modules[name] = _low(tuple(delta.shape), up, down)
            kept[name] = float(s[: up.shape[1]].double().square().sum() / s.double().square().sum())
            tick(i, i + 2)
        if not modules:
            raise InputError(f"{tuned} and {base} have the same weights: there is nothing to extract")
        metadata = {"ss_base_model_version": base}
    else:
        file = Path(tuned)
        if file.is_dir():
            found = sorted(file.rglob("step-*.safetensors"))
            if not found:
                raise InputError(f"{file}: no adapter or training checkpoint in it; give --base to compare models")
            file = found[-1]
        adapter = adapters.load(file)
        metadata = {k: v for k, v in adapter.metadata.items() if k not in ("lorakit.checkpoint", "lorakit.step")}
        for name, low in adapter.modules.items():
            modules[name], kept[name] = _reranked(plain(low), rank, energy)
    result = Adapter(modules, {**metadata, "lorakit.extract": f"{tuned} - {base}" if base else str(tuned)})
    if dry_run:
        note(f"{len(modules)} modules would be written to {output}")
    else:
        adapters.save(output, result, file_format)
    shares = list(kept.values())
    return {
        "outputs": [] if dry_run else [str(output)],
        "layers": len(modules),
        "ranks": {name: low.rank for name, low in modules.items()},
        "energy_kept": {"smallest": min(shares), "mean": sum(shares) / len(shares), "by_layer": kept},
    }


def _rank_of(rank: int | None, energy: float | None, delta: Tensor) -> int:
    """The rank asked for, or the least that keeps the energy."""
    if energy is None:
        return rank or 32
    least = rank_for_energy(torch.linalg.svdvals(delta.flatten(1)), energy)
    return min(least, rank) if rank else least


def _reranked(low: LowRank, rank: int | None, energy: float | None) -> tuple[LowRank, float]:
    if rank is None and energy is None:
        return low, 1.0
    up, down = low.flat()
    u, s, vh = spectrum(up * low.scale, down)
    k = min(rank or len(s), rank_for_energy(s, energy) if energy else len(s))
    root, total = s[:k].sqrt(), float(s.double().square().sum())
    share = float(s[:k].double().square().sum()) / total if total else 1.0
    return _low(low.shape, u[:, :k] * root, root[:, None] * vh[:k]), share
