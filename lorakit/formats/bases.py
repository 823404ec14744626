"""Whether adapters and base models go together: they must be of one family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lorakit.adapter import Adapter
from lorakit.errors import InputError
from lorakit.families import FAMILIES, Shape, guess
from lorakit.formats.evidence import family_of, short, with_clips


def families_of(adapter: Adapter) -> list[str]:
    """The families, or architectures of another kind, that an adapter can be for, the likeliest first; none where no table
    has its modules.

    Several have a text encoder, or a self-attention, of the same shapes.
    """
    found = family_of(adapter)
    return list(found.families or found.architectures)


def check_same(given: Sequence[tuple[Path, Adapter]]) -> list[str]:
    """The families that all of the adapters can be for, the likeliest first; InputError where there is none.

    Those whose families nothing tells go with any.
    """
    known = [(file, families) for file, adapter in given if (families := families_of(adapter))]
    if not known:
        return []
    # CLIP's text encoders are in other architectures as well: an adapter for these alone goes with theirs.
    fitting = [[*families, *with_clips(adapter)] for _, adapter in given if (families := families_of(adapter))]
    common = [name for name in fitting[0] if all(name in names for names in fitting)]
    if common and set(common) & {name for _, families in known for name in families}:
        return [name for name in common if name in FAMILIES] or common
    told: dict[tuple[str, ...], Path] = {}
    for file, families in known:
        told.setdefault(tuple(families), file)
    first, *others = [f"{file} is for {' or '.join(families)}" for families, file in told.items()]
    listed = ", ".join([first, *(line.replace(" is for ", " for ", 1) for line in others)])
    raise InputError(f"the adapters are for different base models: {listed}")


def check_fits(given: Sequence[tuple[Path, Adapter]], shapes: Mapping[str, Shape], model: str, option: str) -> None:
    """InputError where adapters are for another family than the model that `option` names; all of them are named.

    shapes  of the model's modules, by our names
    """
    base = guess(shapes).family
    if base is None:
        foreign = [(file, others) for file, adapter in given if (others := family_of(adapter).architectures)]
        if foreign:
            told = "; ".join(f"{file} is for {_or(others)}" for file, others in foreign)
            raise InputError(f"{told}, the model {model} is a Stable Diffusion; {_NOWHERE}")
        return
    wrong = [(file, families) for file, adapter in given if base not in (families := families_of(adapter) or [base])]
    if wrong:
        told = "; ".join(f"{file} is for {_or(families)}" for file, families in wrong)
        family = FAMILIES[base]
        named = "the model" if model == family.short else f"the model {model}"
        take = wrong[0][1][0]
        if take not in FAMILIES:
            raise InputError(f"{told}, {named} is {family.short}; {_NOWHERE}")
        raise InputError(f"{told}, {named} is {family.short}: take {option} {FAMILIES[take].model}")


_NOWHERE = "lorakit merges, compares and converts such adapters, and applies them to no model"


def _or(families: Iterable[str]) -> str:
    return " or ".join(map(short, families))
