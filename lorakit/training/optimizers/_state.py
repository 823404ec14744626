"""Everything an optimizer holds as a flat set of tensors, and back to the bit. Numbers and structure are one JSON text
among them, which also lists the tensors, so that none can be missing unnoticed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lorakit.errors import InputError
from lorakit.io.plain import json_object

_MANIFEST = "optimizer"


def state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Tensors by key, in no pickle: each parameter's state, the groups' numbers, and what is beside them.

    The tensors are the optimizer's own: write or clone them before the next step. The parameters are not among them.
    ValueError for a value that is neither tensor, number, text nor made of those.
    """
    tensors: dict[str, Tensor] = {}
    names = _names(optimizer)
    by_parameter = {
        name: _packed(optimizer.state[p], f"{_MANIFEST}/{name}", tensors, p.device)
        for name, p in names.items()
        if p in optimizer.state
    }
    groups = [
        _packed({k: v for k, v in group.items() if k != "params"}, f"{_MANIFEST}/group-{i}", tensors, _device(group))
        for i, group in enumerate(optimizer.param_groups)
    ]
    loose = [key for key in optimizer.state if not isinstance(key, Tensor)]
    if loose:
        raise ValueError(
            f"{type(optimizer).__name__} keeps state under {loose[0]!r}, which is no parameter; it cannot be saved"
        )
    kind = f"{type(optimizer).__module__}:{type(optimizer).__qualname__}"
    manifest = {"class": kind, "tensors": sorted(tensors), "state": by_parameter, "groups": groups}
    text = json.dumps(manifest, sort_keys=True).encode()
    return {_MANIFEST: torch.frombuffer(bytearray(text), dtype=torch.uint8), **tensors}


def restore(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Make a new optimizer over the same parameters the one that `state` was taken of; other keys are left alone.

    InputError where it is of another class or other parameters, or any part of it is missing.
    """
    if _MANIFEST not in tensors:
        raise InputError(f"the optimizer's state is missing: no tensor '{_MANIFEST}'")
    manifest = json_object(bytes(tensors[_MANIFEST].cpu().numpy()))
    kind = f"{type(optimizer).__module__}:{type(optimizer).__qualname__}"
    if manifest["class"] != kind:
        raise InputError(f"the saved optimizer is {manifest['class']}, and this run's is {kind}")
    missing = [key for key in manifest["tensors"] if key not in tensors]
    missing += [key for key in tensors if key.startswith(f"{_MANIFEST}/") and key not in manifest["tensors"]]
    if missing:
        raise InputError(f"the optimizer's state is not whole: {', '.join(missing[:4])}")
    names = _names(optimizer)
    if [dict(g["dict"])["names"]["tuple"] for g in manifest["groups"]] != [
        list(g["names"]) for g in optimizer.param_groups
    ]:
        raise InputError("the optimizer's state is of other parameters or groups")
    groups = [
        _unpacked(packed, tensors, _device(group))
        for packed, group in zip(manifest["groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.state.clear()
    for name, packed in manifest["state"].items():
        optimizer.state[names[name]] = _unpacked(packed, tensors, names[name].device)
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        group.update(saved)


def _names(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        name: p for group in optimizer.param_groups for name, p in zip(group["names"], group["params"], strict=True)
    }


def _device(group: Mapping[str, Any]) -> torch.device:
    return group["params"][0].device


def _packed(value: Any, key: str, tensors: dict[str, Tensor], device: torch.device) -> Any:
    """`value` as JSON, its tensors put into `tensors` under keys that begin with `key`."""
    if isinstance(value, Tensor):
        tensors[key] = value.detach()
        return {"tensor": key, "beside": value.device == device}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_packed(v, f"{key}/{i}", tensors, device) for i, v in enumerate(value)]}
    if isinstance(value, dict):
        return {"dict": [[k, _packed(v, f"{key}/{k}", tensors, device)] for k, v in value.items()]}
    raise ValueError(f"{key} is a {type(value).__name__}, which cannot be saved")


def _unpacked(packed: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    if not isinstance(packed, dict):
        return packed
    ((kind, value),) = [(k, v) for k, v in packed.items() if k != "beside"]
    if kind == "tensor":  # on the parameter's device if it was there, else on the CPU, as step counts are
        return tensors[value].to(device if packed["beside"] else "cpu", copy=True)
    if kind == "dict":
        return {k: _unpacked(v, tensors, device) for k, v in value}
    items = [_unpacked(v, tensors, device) for v in value]
    return items if kind == "list" else tuple(items)
