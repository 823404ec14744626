"""What plain LoRA formats write of an adapter: factors at scale 1 by part and path; the rest is named as lost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from lorakit.adapter import Adapter
from lorakit.arrays import Array
from lorakit.deltas.dora import DoRA
from lorakit.deltas.low_rank import LowRank
from lorakit.families import Shape
from lorakit.formats.codec import Context
from lorakit.formats.scaling import reshaped, shaped, with_scale


@dataclass(frozen=True)
class Factors:
    """Of one module, at scale 1: down and up shaped as the weight is, and a DoRA's magnitude [out]."""

    down: Array
    up: Array
    magnitude: Array | None = None

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])


def factors(
    adapter: Adapter, context: Context, parts: Iterable[str], title: str, dora: bool = True
) -> tuple[dict[str, dict[str, Factors]], list[str]]:
    """(part to path to factors, losses). `parts` are those that the format has, `title` names it in the losses.

    PEFT has DoRA for all modules of a part or for none, by output only; a part where that does not fit loses its DoRAs.
    """
    found: dict[str, dict[str, Factors]] = {}
    losses = list[str]()
    allowed = set(parts)
    plain = {name.partition(".")[0] for name, delta in adapter.modules.items() if isinstance(delta, LowRank)}
    for name, delta in adapter.modules.items():
        part, _, path = name.partition(".")
        if part not in allowed:
            losses.append(f"{name}: {title} files have no name for this module")
        elif isinstance(delta, LowRank):
            found.setdefault(part, {})[path] = _at_one(delta, context.shapes.get(name))
        elif isinstance(delta, DoRA) and dora and _by_output(delta) and part not in plain:
            assert isinstance(delta.inner, LowRank)
            low = _at_one(delta.inner, context.shapes.get(name))
            magnitude = reshaped(delta.magnitude, (prod(delta.magnitude.shape),))
            found.setdefault(part, {})[path] = Factors(low.down, low.up, magnitude)
        elif isinstance(delta, DoRA) and dora:
            losses.append(f"{name}: {title} files have DoRA by output only, and for all modules of a part or none")
        else:
            losses.append(f"{name}: {title} files cannot hold {delta.kind}")
    return found, losses + other_losses(adapter, title)


def other_losses(adapter: Adapter, title: str, embeddings: bool = True) -> list[str]:
    """All that is no delta of a weight: biases, tokens, unknown tensors."""
    losses = [f"{name}: {title} files cannot hold what is added to its bias" for name in adapter.biases]
    if embeddings:
        losses += [f"{token}: {title} files cannot hold learned tokens" for token in adapter.embeddings]
    return losses + [f"{key}: {title} files cannot hold a tensor that belongs to nothing" for key in adapter.unknown]


def _by_output(delta: DoRA) -> bool:
    return isinstance(delta.inner, LowRank) and delta.axis == 0


def _at_one(delta: LowRank, wanted: Shape | None) -> Factors:
    delta = shaped(with_scale(delta, float(delta.rank)), wanted)
    return Factors(delta.down, delta.up)
