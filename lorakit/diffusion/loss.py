"""How wrong a denoiser is, and how much each timestep counts.

Weights are stated for a model that predicts epsilon and carried over to the others by what their errors are of it:
err(eps)² = alpha err(v)² = snr err(x)². Each is written in alphas so that it is finite at every timestep, a zero
terminal SNR and a first alpha of 1 included.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_LEAST = 1e-3  # alphas and SNRs below it weigh as it does, where a weight has no bound of its own; SD's are above


def min_snr_weight(alphas: Tensor, gamma: float | None, prediction_type: str, ends_in_noise: bool = False) -> Tensor:
    """Loss weight of each timestep, [b] in and out, capped at SNR = gamma; ones without gamma. Hang et al., 2023.

    ends_in_noise   the schedule has a last timestep with no signal, which would count nothing: snr + 1, the weight of
                    the error of v in that of the picture, is then capped in place of snr, and that timestep counts 1
    """
    if gamma is None:
        return torch.ones_like(alphas)
    if prediction_type == "v_prediction" and ends_in_noise:
        return (gamma * (1 - alphas)).clamp(max=1)  # min(snr + 1, gamma) / (snr + 1)
    if prediction_type == "v_prediction":
        return torch.minimum(alphas, gamma * (1 - alphas))  # min(snr, gamma) / (snr + 1)
    if prediction_type == "sample" and ends_in_noise:
        return (1 / (1 - alphas)).clamp(max=gamma)
    if prediction_type == "sample":
        return (alphas / (1 - alphas)).clamp(max=gamma)
    return (gamma * (1 - alphas) / alphas).clamp(max=1)


def debiased_weight(alphas: Tensor, prediction_type: str) -> Tensor:
    """1 / sqrt(SNR), at most 1 / sqrt(0.001), for epsilon; [b] in and out. Yu et al., 2024."""
    rest = (1 - alphas).clamp(min=_LEAST)
    if prediction_type == "v_prediction":
        return (alphas * (1 - alphas)).sqrt()
    if prediction_type == "sample":
        return (alphas / rest).sqrt()
    return ((1 - alphas) / alphas).clamp(max=1 / _LEAST).sqrt()


def v_like_weight(alphas: Tensor, prediction_type: str) -> Tensor:
    """What makes the loss that of a model that predicts v: 1 / alpha, at most 1000, for epsilon; [b] in and out."""
    if prediction_type == "v_prediction":
        return torch.ones_like(alphas)
    return 1 / (1 - alphas if prediction_type == "sample" else alphas).clamp(min=_LEAST)


def squares(difference: Tensor, delta: Tensor | None = None) -> Tensor:
    """Elementwise, l2."""
    return difference.square()


def huber(difference: Tensor, delta: Tensor) -> Tensor:
    """2 delta (sqrt(d² + delta²) - delta): d² where it is small beside delta, 2 delta |d| where it is large.

    delta [b], for each sample. The difference of roots is written so that it does not cancel. Charbonnier et al., 1997.
    """
    d = delta.view(-1, *[1] * (difference.ndim - 1))
    squared = difference.square()
    return 2 * d * squared / ((squared + d * d).sqrt() + d)


def smooth_l1(difference: Tensor, delta: Tensor) -> Tensor:
    """The same over delta: d² / delta where it is small, 2 |d| where it is large."""
    return huber(difference, delta) / delta.view(-1, *[1] * (difference.ndim - 1))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l2": squares, "huber": huber, "smooth-l1": smooth_l1}


def huber_delta(timesteps: Tensor, steps: int, least: float, schedule: str) -> Tensor:
    """Where huber turns from square to line, at timesteps [b] of `steps`; [b], from `least` to 1.

    constant      least
    exponential   1 at timestep 0, least at the last: outliers count less the noisier the picture (Khrapov et al., 2024);
                  least^(t/(steps-1)), where sd-scripts has least^(t/steps), which is 0.2 % more at most for 0.1 of 1000
    """
    if schedule == "constant":
        return torch.full(timesteps.shape, least, device=timesteps.device)
    if schedule == "exponential":
        return torch.as_tensor(least, device=timesteps.device) ** (timesteps / max(1, steps - 1))
    raise ValueError(f"no schedule of huber's delta '{schedule}' (there are: constant, exponential)")


def mean_by_sample(errors: Tensor, mask: Tensor | None = None) -> Tensor:
    """errors [b, c, h, w] to [b]; with a mask [b, 1, h, w] the mean over its area, whatever the area is.

    A mask of ones gives the bits that no mask gives; an empty one gives 0.
    """
    if mask is None:
        return errors.mean((1, 2, 3))
    mask = mask.expand_as(errors)
    return (errors * mask).mean((1, 2, 3)) / mask.mean((1, 2, 3)).clamp(min=torch.finfo(errors.dtype).tiny)
