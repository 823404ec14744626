"""What a UNet predicts, asked of the UNet itself: for files of SD2 that do not say whether they answer the noise or v."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorakit.formats.layouts import Model

_ALIKE = 0.5  # cosine of an answer and its noise; both kinds of model are far from it
_SIDE, _TOKENS, _DRAWS = 32, 77, 2


def ask(model: Model) -> tuple[str, str]:
    """ "epsilon" or "v_prediction", and how that is known.

    At the last timestep there is hardly anything but noise. A model of the noise answers what it is shown; a model of v
    answers the picture with its sign turned, of which the noise tells nothing. What text it is told is of no matter.
    """
    import torch
    from torch.nn.functional import cosine_similarity

    from lorakit.formats.layouts import describe
    from lorakit.models.parts import unet_of

    unet = unet_of(model, describe.plain_configs(model, "epsilon"))
    g = torch.Generator().manual_seed(0)
    x = torch.randn(_DRAWS, 4, _SIDE, _SIDE, generator=g)
    text = torch.randn(_DRAWS, _TOKENS, int(unet.config.cross_attention_dim), generator=g)
    with torch.no_grad():
        said = unet(x, torch.tensor(999), text).sample
    alike = float(cosine_similarity(said.flatten(1), x.flatten(1)).mean())
    kind = "epsilon" if alike >= _ALIKE else "v_prediction"
    how = (
        f"the file does not say it; shown noise at the last timestep, its UNet's answer is {alike:.2f} alike, where epsilon "
        "models come near 1 and v models near 0; --prediction-type decides"
    )
    return kind, how
