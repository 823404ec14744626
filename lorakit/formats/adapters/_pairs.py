"""What the codecs of down/up pairs share: checking that factors belong together."""

from collections.abc import Mapping

from torch import Tensor

from lorakit.deltas.low_rank import LowRank
from lorakit.errors import InputError


def pair(down: Tensor, up: Tensor, alpha: Tensor | float | None, name: str) -> LowRank:
    """The factors of one module; a missing alpha means the rank. InputError where they do not fit one another."""
    if down.ndim not in (2, 4) or up.ndim != down.ndim or up.shape[1] != down.shape[0]:
        raise InputError(f"{name}: down {tuple(down.shape)} and up {tuple(up.shape)} do not belong together")
    return LowRank(down, up, float(down.shape[0] if alpha is None else alpha))


def unmatched(tensors: Mapping[str, Tensor], used: set[str]) -> None:
    """InputError that lists every key no module was made of."""
    left = sorted(set(tensors) - used)
    if left:
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        raise InputError(f"{len(left)} keys match nothing: {', '.join(left[:5])}{more}")
