"""Which tensors a model's files hold when it is written, in its own layout or the other one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorakit.arrays import Stored, stored
from lorakit.errors import InputError, UsageError, some
from lorakit.families import Unet
from lorakit.formats.layouts import UNET_FILE, Model, describe, folder, marks, original
from lorakit.formats.layouts.place import THIRDS, KeyRule, below, spelled
from lorakit.talk import Note

Plan = dict[str, dict[str, Stored]]  # file to key to tensor


def same_layout(base: Model, arrays: Mapping[str, Stored]) -> Plan:
    """The files as they are, but for the parameters whose array is another."""
    plan: Plan = {file: {key: stored(x) for key, x in tensors.items()} for file, tensors in base.files.items()}
    by_key: dict[tuple[str, str], list[KeyRule]] = {}
    for place in base.places.values():
        by_key.setdefault((place.file, place.rule.key), []).append(place.rule)
    for (file, key), rules in by_key.items():
        if any(arrays[rule.ours] is not base.arrays[rule.ours] for rule in rules):
            plan[file][key] = _assembled(rules, arrays)
    return plan


def _assembled(rules: list[KeyRule], arrays: Mapping[str, Stored]) -> Stored:
    """A file's tensor, of the parameters that lie in it."""
    parts = [spelled(rule, arrays[rule.ours]) for rule in sorted(rules, key=lambda rule: rule.third or 0)]
    return parts[0] if rules[0].third is None else below(parts)


def other_layout(
    base: Model, arrays: Mapping[str, Stored], to_folder: bool, result: dict[str, Any], note: Note
) -> Plan:
    """The other layout of the model; what has no place in it is named."""
    if base.layout == UNET_FILE:
        raise UsageError(f"{base.path} is a UNet alone, which makes no diffusers folder")
    lost = [key for _, key in base.leftovers()]
    plan: Plan = {}
    if to_folder:
        for part, rules in folder.wanted(arrays.keys()).items():
            plan[f"{part}/{folder.WEIGHTS[part]}"] = {rule.key: arrays[rule.ours] for rule in rules}
    else:
        unet, kind = architecture(base)
        names = dict(arrays)
        if kind == "sd2":
            names |= _idle_layer(arrays, note)
        rules = original.wanted(names.keys(), unet, kind)
        by_key: dict[str, list[KeyRule]] = {}
        for rule in rules:
            by_key.setdefault(rule.key, []).append(rule)
        split = [k for k, of in by_key.items() if of[0].third is not None and len(of) != THIRDS]
        if split:
            raise InputError(f"{base.path}: parts of {split[0]} are missing")
        plan[""] = {key: _assembled(of, names) for key, of in by_key.items()}
        homeless = sorted(set(arrays) - {rule.ours for rule in rules})
        if of_unet := [name for name in homeless if name.startswith("unet.")]:
            raise InputError(
                f"{base.path} cannot be written as one file: the layout has no place for {some(of_unet, 3)}"
            )
        lost += homeless
    lost = [key for key in lost if not key.endswith("position_ids") and not marks.is_mark(key)]
    result["left_out"] = lost
    if lost:
        note(f"{len(lost)} tensors have no place in the other layout and are left out, first {lost[0]}")
    return plan


def architecture(base: Model) -> tuple[Unet, str]:
    """The UNet's row and the kind, of a model that the other layout has names for; InputError for others."""
    try:
        unet, kind = describe.architecture(base)
    except InputError as error:
        raise InputError(f"it cannot be written in the other layout: {error}") from None
    if unet.layers != original.LAYERS:
        raise InputError(
            f"{base.path} cannot be written as one file: the layout knows {original.LAYERS} layers a block"
        )
    return unet, kind


def _idle_layer(arrays: Mapping[str, Stored], note: Note) -> dict[str, Stored]:
    """SD2's checkpoints have a last text layer that is never run; clients expect it."""
    begin = "text_encoder.text_model.encoder.layers."
    last = max((int(name[len(begin) :].partition(".")[0]) for name in arrays if name.startswith(begin)), default=-1)
    note(f"SD2 files have one more text layer, which is not used: filled with a copy of layer {last}")
    mine = f"{begin}{last}."
    return {f"{begin}{last + 1}.{name[len(mine) :]}": x for name, x in arrays.items() if name.startswith(mine)}
