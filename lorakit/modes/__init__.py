"""Training modes, one module each: what is trained, and what comes out.

A module has `NEEDS_PRIOR` (does it train on class pictures beside the user's?) and `begin(components, config)`, which
gives the `Trained`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from lorakit.adapter import Adapter


@dataclass(frozen=True)
class Trained:
    """The parameters by name, and the result they make: an adapter, or the tensors of a whole UNet."""

    parameters: Mapping[str, nn.Parameter]
    result: Callable[[], Adapter | Mapping[str, Tensor]]
