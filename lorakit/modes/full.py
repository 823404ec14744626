"""Every weight of the UNet; the result is a model folder, which `extract` can take apart."""

from lorakit.config import TrainConfig
from lorakit.models.load import Components
from lorakit.modes import Trained

NEEDS_PRIOR = False


def begin(components: Components, config: TrainConfig) -> Trained:
    components.unet.requires_grad_(True)
    parameters = dict(components.unet.named_parameters())
    return Trained(parameters, lambda: {name: p.detach() for name, p in parameters.items()})
