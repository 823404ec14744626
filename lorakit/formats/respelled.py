"""The modules of one architecture from one spelling of its names to another, fused weights split and put together.

What an architecture's table has no name for keeps its own, with another prefix where that is all that differs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from lorakit.adapter import Adapter
from lorakit.architectures import ARCHITECTURES, Architecture, ModulePlace, Shape
from lorakit.arrays import Array
from lorakit.delta import Delta
from lorakit.deltas.full import Full
from lorakit.lowrank.rows import join, split, swapped
from lorakit.spellings import PREFIXES, Spelled, stranger

# What the formats that name any module begin with; whether by the original's names; dots are lost where it is flat.
STYLES = {"kohya": ("lora_unet_", True), "comfy": ("diffusion_model.", True), "diffusers": ("transformer.", False)}


@dataclass(frozen=True)
class Style:
    """How a file spells its transformer: the prefix, underscores or dots, the original's names or diffusers'.

    held    the modules that it has already, by what they are: these names are taken
    """

    prefix: str
    flat: bool
    original: bool
    held: Mapping[tuple[str, int | None], str]

    @staticmethod
    def of_format(name: str) -> Style | None:
        """That of a format; None for those that do not name modules so."""
        if name not in STYLES:
            return None
        prefix, original = STYLES[name]
        return Style(prefix, PREFIXES[prefix].flat, original, {})

    @staticmethod
    def of(adapter: Adapter, one: Architecture | None) -> Style:
        """That of most of an adapter's modules."""
        modules = [spelled for name in adapter.modules if (spelled := stranger(name)) is not None]
        prefixes = Counter(spelled.prefix.text for spelled in modules)
        prefix = prefixes.most_common(1)[0][0] if prefixes else ""
        held: dict[tuple[str, int | None], str] = {}
        votes = 0
        for spelled in modules:
            if one is None or (place := one.place(spelled.path)) is None:
                held[_flat(spelled.path), None] = spelled.stem
                continue
            held[place.original, place.part] = spelled.stem
            if _flat(place.original) not in map(_flat, place.diffusers()):  # else both call it so
                votes += 1 if _flat(spelled.path) == _flat(place.original) else -1
        flat = PREFIXES[prefix].flat if prefix in PREFIXES else False
        return Style(prefix, flat, votes > 0 if votes else prefix != "transformer.", held)

    def spelled(self, path: str) -> str:
        return f"{self.prefix}{_flat(path) if self.flat else path}"

    def is_fused(self, place: ModulePlace) -> bool:
        """Whether the file has the weight whole."""
        if (place.original, None) in self.held:
            return True
        return self.original and not any((place.original, k) in self.held for k in range(len(place.rule.parts)))

    def name(self, place: ModulePlace) -> str:
        """The name of a module that is neither split nor put together."""
        if place.part is None and not (self.original or len(place.rule.parts) > 1):
            mine = place.diffusers()[0]
        else:
            mine = place.original if place.part is None else place.diffusers()[0]
        return self.held.get((place.original, place.part), self.spelled(mine))


def respelled(adapter: Adapter, architecture: str | None, style: Style) -> Adapter:
    """The adapter with its modules named so; ValueError that names what cannot be."""
    one = ARCHITECTURES[architecture] if architecture is not None else None
    keys: dict[str, str] = {}
    modules: dict[str, Delta] = {}
    for old, new, delta in _renamed(adapter.modules, one, style, {}):
        modules[new] = delta
        keys[new] = adapter.keys.get(old, old)
    # What is added to a bias is so many rows, too; how many inputs the weight has is told by its delta.
    shapes = {name: delta.shape for name, delta in adapter.modules.items()}
    biases: dict[str, Array] = {}
    for old, new, rows in _renamed({name: Full(bias) for name, bias in adapter.biases.items()}, one, style, shapes):
        biases[new] = rows.arrays()["diff"]
        keys.setdefault(new, adapter.keys.get(old, old))
    return replace(adapter, modules=modules, biases=biases, keys=keys)


def _renamed(
    deltas: Mapping[str, Delta], one: Architecture | None, style: Style, shapes: Mapping[str, Shape | None]
) -> Iterator[tuple[str, str, Delta]]:
    """(old name, new name, delta); `shapes` are those of the weights, where they are not the deltas' own."""
    groups: dict[str, dict[int | None, _WeightModule]] = {}
    for name, delta in deltas.items():
        spelled = stranger(name)
        place = one.place(spelled.path) if one is not None and spelled is not None else None
        if spelled is None:
            yield name, name, delta
        elif place is None:
            yield name, _opaque(name, spelled, style), delta
        else:
            shape = shapes.get(name) if len(delta.shape or ()) == 1 else delta.shape
            groups.setdefault(place.original, {})[place.part] = _WeightModule(name, place, delta, shape)
    for found in groups.values():
        assert one is not None
        yield from _group(found, one, style)


@dataclass(frozen=True)
class _WeightModule:
    """A module of a weight of the original: its name in the file, where it is, its delta, and the shape of its weight."""

    name: str
    place: ModulePlace
    delta: Delta
    shape: Shape | None

    @property
    def inputs(self) -> int | None:
        return None if self.shape is None else prod(self.shape[1:])

    @property
    def rows(self) -> int:
        return (self.delta.shape or (0,))[0]


def _group(
    found: Mapping[int | None, _WeightModule], one: Architecture, style: Style
) -> Iterator[tuple[str, str, Delta]]:
    """The modules that are of one weight of the original."""
    first = next(iter(found.values()))
    place, fused = first.place, style.is_fused(first.place)
    if None in found:
        if len(found) > 1:
            raise ValueError(f"{found[None].name}: the file has this weight whole and in parts")
        if place.is_fused and not fused:
            pieces = _told(first.name, lambda: split(first.delta, _sizes(one, first)))
            for k, piece in enumerate(pieces):
                yield first.name, style.name(replace(place, part=k)), piece
            return
        new = style.name(place)
        turns = place.rule.swapped and _turns(first.name, new, place) and _has_halves(first)
        yield first.name, new, _told(first.name, lambda: swapped(first.delta)) if turns else first.delta
    elif fused:
        members = [found.get(k) for k in range(len(place.rule.parts))]
        sizes = _rows(one, members)
        deltas = [None if member is None else member.delta for member in members]
        made = _told(first.name, lambda: join(deltas, sizes, first.inputs or 1))
        yield first.name, style.name(replace(place, part=None)), made
    else:
        yield from ((member.name, style.name(member.place), member.delta) for member in found.values())


def _sizes(one: Architecture, member: _WeightModule) -> tuple[int, ...]:
    rule = member.place.rule
    sizes = rule.sizes(member.rows, member.inputs or 1) if member.inputs is not None or not rule.whole else None
    if sizes is None:
        raise ValueError(f"{member.name}: {one.title} has it in {len(rule.parts)} parts, and it cannot be so divided")
    return sizes


def _rows(one: Architecture, members: Sequence[_WeightModule | None]) -> tuple[int, ...]:
    """How many rows each part has, those that the file lacks too."""
    there = [member for member in members if member is not None]
    if len(there) == len(members):
        return tuple(member.rows for member in there)
    rule, inputs = there[0].place.rule, there[0].inputs
    ratio = one.ratios.get(rule.original)
    sizes = None
    if inputs is not None or not rule.whole:
        total = round(ratio * inputs) if ratio is not None and inputs is not None else len(members) * there[0].rows
        sizes = rule.sizes(total, inputs or 1)
    if sizes is None or any(m is not None and m.rows != size for m, size in zip(members, sizes, strict=True)):
        raise ValueError(f"{there[0].name}: its weight is whole there, and how large what it lacks is, nothing tells")
    return sizes


def _told(name: str, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None


def _turns(old: str, new: str, place: ModulePlace) -> bool:
    """Whether a rename is from the original's name to diffusers', or back."""
    return _is_original(old, place) != _is_original(new, place)


def _is_original(name: str, place: ModulePlace) -> bool:
    spelled = stranger(name)
    return spelled is not None and _flat(spelled.path) == _flat(place.original)


def _has_halves(member: _WeightModule) -> bool:
    """Whether the rows are a shift and a scale for each input: other norms have more of them, in one order everywhere."""
    if member.inputs is None:
        raise ValueError(
            f"{member.name}: whether its halves change places is told by its weight, which is not in the file"
        )
    return member.rows == 2 * member.inputs


def _opaque(name: str, spelled: Spelled, style: Style) -> str:
    """A module that no table has: the same path behind another prefix."""
    if (taken := style.held.get((_flat(spelled.path), None))) is not None:
        return taken
    if spelled.prefix.text == style.prefix:
        return name
    if spelled.prefix.flat and not style.flat:
        raise ValueError(f"{name}: no table has this module, and where its dots were is not known")
    return style.spelled(spelled.path)


def _flat(path: str) -> str:
    return path.replace(".", "_")
