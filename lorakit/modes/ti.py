"""New words alone: rows beside the frozen table of the text encoders (Gal et al., 2023)."""

from lorakit.adapter import Adapter
from lorakit.config import TrainConfig
from lorakit.models.load import Components
from lorakit.modes import Trained
from lorakit.training.branches import curve
from lorakit.training.learned_words import Learned

ADAPTERS = False


def begin(components: Components, config: TrainConfig) -> Trained:
    learned = Learned(components, config)
    group = learned.group(curve(config, config.lr_token or 0.0, 0, config.total), lambda step: True)
    return Trained(
        groups=[group],
        result=lambda: Adapter(modules={}, embeddings=learned.embeddings()),
        text_until=config.total,
        after=learned.after,
        learned=learned,
    )
