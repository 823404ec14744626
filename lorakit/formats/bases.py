"""Whether adapters and base models go together: they must be of one family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lorakit.adapter import Adapter
from lorakit.errors import InputError
from lorakit.families import FAMILIES, Shape, fits, guess
from lorakit.formats.adapters._modules import family_of, shapes_of


def families_of(adapter: Adapter) -> list[str]:
    """The families that an adapter can be for, the likeliest first; none where no table has its modules.

    Several have a text encoder, or a self-attention, of the same shapes. Learned tokens alone are told by their widths.
    """
    shapes, likeliest = shapes_of(adapter), family_of(adapter).family
    if adapter.modules:
        return [] if likeliest is None else [likeliest, *(f for f in FAMILIES if f != likeliest and fits(shapes, f))]
    widths = [{part: x.shape[-1] for part, x in by.items()} for by in adapter.embeddings.values()]
    return [
        name
        for name, family in FAMILIES.items()
        if widths and all(by == {part: text.width for part, text in family.texts.items()} for by in widths)
    ]


def check_same(given: Sequence[tuple[Path, Adapter]]) -> None:
    """InputError where two adapters are for different families."""
    known = [(file, families) for file, adapter in given if (families := families_of(adapter))]
    for file, families in known[1:]:
        first, others = known[0]
        if not set(families) & set(others):
            raise InputError(
                f"the adapters are for different base models: {first} is for {' or '.join(others)}, {file} for "
                f"{' or '.join(families)}"
            )


def check_fits(given: Sequence[tuple[Path, Adapter]], shapes: Mapping[str, Shape], model: str, option: str) -> None:
    """InputError where adapters are for another family than the model that `option` names; all of them are named.

    shapes  of the model's modules, by our names
    """
    base = guess(shapes).family
    if base is None:
        return
    wrong = [(file, families) for file, adapter in given if base not in (families := families_of(adapter) or [base])]
    if wrong:
        told = "; ".join(
            f"{file} is for {' or '.join(FAMILIES[f].short for f in families)}" for file, families in wrong
        )
        family = FAMILIES[base]
        named = "the model" if model == family.short else f"the model {model}"
        raise InputError(f"{told}, {named} is {family.short}: take {option} {FAMILIES[wrong[0][1][0]].model}")
