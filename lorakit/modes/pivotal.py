"""New words first, then adapters around them (Roich et al., 2022; Ryu, cloneofsimo/lora, 2022).

After the first phase `--joint` says how both go on: `alternate` gives them the steps in turn, `together` both every
step, `off` leaves the words as they are.
"""

from dataclasses import replace

from lorakit.config import TrainConfig
from lorakit.models.load import Components
from lorakit.modes import Trained
from lorakit.training.branches import attach, curve
from lorakit.training.learned_words import Learned

ADAPTERS = True


def begin(components: Components, config: TrainConfig) -> Trained:
    pivot, alternate = config.ti_steps or 0, config.joint == "alternate"

    def adapters_learn(step: int) -> bool:
        return step >= pivot and not (alternate and (step - pivot) % 2)

    def tokens_learn(step: int) -> bool:
        return step < pivot or config.joint == "together" or (alternate and (step - pivot) % 2 == 1)

    learned = Learned(components, config)
    first, later = (curve(config, config.lr_token or 0.0, *span) for span in ((0, pivot), (pivot, config.total)))
    tokens = learned.group(
        lambda step: first(step) if step < pivot else later(step), tokens_learn, config.joint_token_weight
    )
    adapters = attach(components, config, pivot, adapters_learn)
    until = max(adapters.text_until, pivot if config.joint == "off" else config.total)
    return Trained(
        groups=[tokens, *adapters.groups],
        result=lambda: replace(adapters.adapter(), embeddings=learned.embeddings()),
        text_until=until,
        after=learned.after,
        attached=adapters.attached,
        learned=learned,
        notes=adapters.notes,
    )
