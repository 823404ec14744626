"""Classifier-free guidance: what the model says with the prompt, made more of."""

from torch import Tensor


def guided(without: Tensor, given: Tensor, guidance: float, rescale: float = 0.0) -> Tensor:
    """without + guidance * (given - without), [b, c, h, w]. Ho and Salimans, 2022.

    rescale   share, 0 to 1, of the way back to the spread of `given`, by picture, against overexposure. Lin et al., 2024
    """
    told = without + guidance * (given - without)
    if not rescale:
        return told
    spread = given.std((1, 2, 3), keepdim=True) / told.std((1, 2, 3), keepdim=True).clamp(min=1e-12)
    return told * (rescale * spread + (1 - rescale))
