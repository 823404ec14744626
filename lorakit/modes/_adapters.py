"""What the modes that train adapters share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lorakit.adapter import Adapter
from lorakit.config import TrainConfig
from lorakit.diffusion.noise import normal
from lorakit.models import inject
from lorakit.models.load import Components
from lorakit.training.loop import Group
from lorakit.training.rates import rate


def curve(config: TrainConfig, peak: float, first: int, last: int) -> Callable[[int], float]:
    """The learning rate by step of a phase from `first` to before `last`."""
    return lambda step: rate(step - first, last - first, peak, config.lr_schedule, config.warmup)


def attach(
    components: Components, config: TrainConfig, first: int, learns: Callable[[int], bool]
) -> tuple[list[Group], Callable[[], Adapter], int]:
    """Adapters of the UNet, and of the text encoders where asked, that learn from step `first` on: their groups, what
    they are by now, and the step before which the text encoders change."""

    def draw(shape: tuple[int, ...], name: str) -> Tensor:
        return normal(shape, config.seed, "factors", name)

    alpha = config.alpha or float(config.rank)
    paths = inject.targets(components.unet, config.target)
    parameters = inject.start(components.unet, paths, config.rank, alpha, draw)
    groups = [Group("unet", parameters, curve(config, config.lr or 0.0, first, config.total), learns)]
    return groups, lambda: Adapter(inject.collect(parameters, alpha / config.rank)), 0
