"""Every weight of the UNet and, where asked, of the text encoders; the result is a whole model, which `extract` can
take apart (Ruiz et al., 2023, as XavierXiao/Dreambooth-Stable-Diffusion does it)."""

from torch import nn

from lorakit.config import TrainConfig
from lorakit.models.load import Components
from lorakit.modes import Trained
from lorakit.training.branches import curve
from lorakit.training.loop import ParameterGroup

ADAPTERS = False


def begin(components: Components, config: TrainConfig) -> Trained:
    components.unet.requires_grad_(True)
    parameters = {f"unet.{name}": p for name, p in components.unet.named_parameters()}
    groups = [ParameterGroup(name="unet", parameters=parameters, rate=curve(config, config.lr or 0.0, 0, config.total))]
    until = 0
    if config.text_encoder:
        until = min(config.total, config.total if config.text_steps is None else config.text_steps)
        text: dict[str, nn.Parameter] = {}
        for part, encoder in components.text_encoders.items():
            encoder.requires_grad_(True)
            text |= {f"{part}.{name}": p for name, p in encoder.named_parameters()}
        groups.append(
            ParameterGroup(
                name="text",
                parameters=text,
                rate=curve(config, config.lr_text or 0.0, 0, until),
                learns=lambda step: step < until,
            )
        )
    return Trained(
        groups=groups,
        result=lambda: {name: p.detach() for group in groups for name, p in group.parameters.items()},
        text_until=until,
    )
