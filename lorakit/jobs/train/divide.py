"""A run whose model is divided among its processes, as the launcher's settings ask."""

from __future__ import annotations

from dataclasses import replace

from lorakit.config import TrainConfig
from lorakit.errors import UsageError
from lorakit.models.load import Components
from lorakit.modes import Trained
from lorakit.registry import OPTIMIZERS
from lorakit.runtime import sharding
from lorakit.runtime.sharding import Sharding
from lorakit.runtime.world import World
from lorakit.training.shards import Shards


def asked(config: TrainConfig, world: World) -> Sharding | None:
    """How to divide; None where nobody asks, or there is nobody to share with. UsageError for what cannot be divided."""
    how = sharding.asked()
    if how is None or world.size == 1:
        return None
    if config.mode != "full":
        raise UsageError(
            f"{how.said}: only --mode full trains enough to divide; start --mode {config.mode} without it, every process "
            "has the whole model then"
        )
    known = [name for name in OPTIMIZERS.names() if getattr(OPTIMIZERS[name], "BY_NUMBER", False)]
    if config.optimizer not in known:
        raise UsageError(
            f"{how.said}: --optimizer {config.optimizer} looks at whole parameters, which no process has; "
            f"choose {', '.join(known)}"
        )
    return how


def divide(trained: Trained, components: Components, how: Sharding, world: World) -> tuple[Trained, Shards]:
    """The same to be trained, in pieces; the model is asked by all processes together from now on."""
    names = {name.partition(".")[0] for name in trained.parameters}
    parts = {name: part for name, part in components.parts.items() if name in names}
    shards = Shards(parts, how, world, components.device)
    components.divided = True
    groups = [
        replace(group, parameters={name: shards.parameters[name] for name in group.parameters})
        for group in trained.groups
    ]
    said = f"{how.said}: {shards.units} modules divided among {world.size} processes"
    return replace(trained, groups=groups, result=shards.whole, notes=[*trained.notes, said]), shards
