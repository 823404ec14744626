"""What the launcher says of dividing a model among processes: FSDP's settings and DeepSpeed's, as accelerate hands them on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from lorakit.errors import UsageError

_STRATEGIES = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2")  # numbered from 1
_ACTIVATIONS, _KEPT_ELSEWHERE = "FSDP_ACTIVATION_CHECKPOINTING", "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD"


@dataclass(frozen=True)
class Sharding:
    """How weights, gradients and the optimizer's moments are divided.

    said            as the launcher spells it
    regather        weights are let go after the forward pass and gathered again for the backward (FULL_SHARD, ZeRO-3),
                    else kept between the two (SHARD_GRAD_OP, ZeRO-2): more memory, a third less to send
    units           classes of the modules that are gathered one after another; none, the model's own choice
    checkpointing   as --gradient-checkpointing, which changes no number
    """

    said: str
    regather: bool = True
    units: tuple[str, ...] = ()
    checkpointing: bool = False


def asked(told: Mapping[str, str] = os.environ) -> Sharding | None:
    """None where nothing is to be divided; UsageError for what cannot be done as it is asked for."""
    if _on(told, "ACCELERATE_USE_FSDP"):
        return _of_fsdp(told)
    return _of_deepspeed(told) if _on(told, "ACCELERATE_USE_DEEPSPEED") else None


def _on(told: Mapping[str, str], name: str) -> bool:
    return told.get(name, "").lower() in ("1", "true", "yes", "on")


def _of_fsdp(told: Mapping[str, str]) -> Sharding | None:
    for name in ("FSDP_OFFLOAD_PARAMS", _KEPT_ELSEWHERE):
        if _on(told, name):
            raise UsageError(f"{name}: what is divided stays on the device; turn it off, or start more processes")
    if told.get("FSDP_VERSION", "1") == "2":
        regather = told.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() != "false"
        said = f"FSDP 2, reshard_after_forward {str(regather).lower()}"
    else:
        strategy = told.get("FSDP_SHARDING_STRATEGY", "FULL_SHARD").upper()
        if strategy.isdigit() and 1 <= int(strategy) <= len(_STRATEGIES):
            strategy = _STRATEGIES[int(strategy) - 1]
        if strategy == "NO_SHARD":
            return None
        if strategy not in _STRATEGIES[:2]:
            raise UsageError(f"FSDP_SHARDING_STRATEGY {strategy}: there are FULL_SHARD, SHARD_GRAD_OP and NO_SHARD")
        regather, said = strategy == "FULL_SHARD", f"FSDP, {strategy}"
    units = tuple(filter(None, told.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "").replace(" ", "").split(",")))
    return Sharding(said, regather, units, _on(told, _ACTIVATIONS))


def _of_deepspeed(told: Mapping[str, str]) -> Sharding | None:
    """ZeRO's stages are what FSDP's strategies are made after (Rajbhandari et al., 2020), and torch does them exactly,
    with a loop, an optimizer and checkpoints that are ours; DeepSpeed's engine would bring its own of each."""
    if told.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none").lower() != "none":
        raise UsageError(
            "deepspeed_config_file: only zero_stage is taken of DeepSpeed; leave the file away and name that"
        )
    for what in ("OPTIMIZER", "PARAM"):
        if told.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{what}_DEVICE", "none").lower() != "none":
            name = f"offload_{what.lower()}_device"
            raise UsageError(f"{name}: what is divided stays on the device; set it to none, or start more processes")
    stage = told.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage not in ("0", "1", "2", "3"):
        raise UsageError(f"zero_stage {stage}: there are 0, 1, 2 and 3")
    name = "FULL_SHARD" if stage == "3" else "SHARD_GRAD_OP"
    return None if stage == "0" else Sharding(f"ZeRO-{stage} by torch's FSDP, {name}", stage == "3")
