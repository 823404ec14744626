"""Low-rank adapters of the UNet (Hu et al., 2021)."""

from torch import Tensor

from lorakit.adapter import Adapter
from lorakit.config import TrainConfig
from lorakit.diffusion.noise import normal
from lorakit.models import inject
from lorakit.models.load import Components
from lorakit.modes import Trained

NEEDS_PRIOR = False


def begin(components: Components, config: TrainConfig) -> Trained:
    def draw(shape: tuple[int, ...], name: str) -> Tensor:
        return normal(shape, config.seed, "factors", name)

    alpha = config.alpha or float(config.rank)
    paths = inject.targets(components.unet, config.target)
    parameters = inject.start(components.unet, paths, config.rank, alpha, draw)
    return Trained(parameters, lambda: Adapter(inject.collect(parameters, alpha / config.rank)))
