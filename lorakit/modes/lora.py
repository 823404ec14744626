"""Low-rank adapters of the UNet and, where asked, of the text encoders (Hu et al., 2021)."""

from lorakit.config import TrainConfig
from lorakit.models.load import Components
from lorakit.modes import Trained
from lorakit.training.branches import attach

ADAPTERS = True


def begin(components: Components, config: TrainConfig) -> Trained:
    adapters = attach(components, config, 0, lambda step: True)
    return Trained(
        groups=adapters.groups,
        result=adapters.adapter,
        text_until=adapters.text_until,
        attached=adapters.attached,
        notes=adapters.notes,
    )
