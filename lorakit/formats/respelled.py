"""The modules of one architecture from one spelling of its names to another, fused weights split and put together.

What an architecture's table has no name for keeps its own, with another prefix where that is all that differs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from lorakit.adapter import Adapter
from lorakit.architectures import ARCHITECTURES, Architecture, Place
from lorakit.deltas._base import Delta
from lorakit.formats.adapters._spellings import PREFIXES, Spelled
from lorakit.formats.evidence import stranger
from lorakit.lowrank.rows import join, split, swapped

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

    def is_fused(self, place: Place) -> bool:
        """Whether the file has the weight whole."""
        if (place.original, None) in self.held:
            return True
        return self.original and not any((place.original, k) in self.held for k in range(len(place.rule.parts)))

    def name(self, place: Place) -> str:
        """The name of a module that is neither split nor put together."""
        if place.part is None and not (self.original or len(place.rule.parts) > 1):
            mine = place.diffusers()[0]
        else:
            mine = place.original if place.part is None else place.diffusers()[0]
        return self.held.get((place.original, place.part), self.spelled(mine))


def respelled(adapter: Adapter, architecture: str | None, style: Style) -> Adapter:
    """The adapter with its modules named so; ValueError that names what cannot be."""
    one = ARCHITECTURES[architecture] if architecture is not None else None
    modules: dict[str, Delta] = {}
    renamed: dict[str, str] = {}
    groups: dict[str, dict[int | None, tuple[str, Place, Delta]]] = {}
    for name, delta in adapter.modules.items():
        spelled = stranger(name)
        place = one.place(spelled.path) if one is not None and spelled is not None else None
        if spelled is None:
            modules[name] = delta
        elif place is None:
            modules[renamed.setdefault(name, _opaque(name, spelled, style))] = delta
        else:
            groups.setdefault(place.original, {})[place.part] = name, place, delta
    for found in groups.values():
        for old, new, delta in _group(found, one, style):
            renamed[old] = new
            modules[new] = delta
    biases = {}
    for name, bias in adapter.biases.items():
        if (spelled := stranger(name)) is not None and name not in renamed:
            place = one.place(spelled.path) if one is not None else None
            if place is not None and (place.is_fused or place.part is not None or place.rule.swapped):
                raise ValueError(f"{name}: what is added to its bias cannot be respelled")
            renamed[name] = style.name(place) if place is not None else _opaque(name, spelled, style)
        biases[renamed.get(name, name)] = bias
    keys = {renamed.get(name, name): key for name, key in adapter.keys.items()}
    return replace(adapter, modules=modules, biases=biases, keys=keys)


def _group(
    found: Mapping[int | None, tuple[str, Place, Delta]], one: Architecture | None, style: Style
) -> Iterable[tuple[str, str, Delta]]:
    """(old name, new name, delta) of the modules that are of one weight of the original."""
    assert one is not None
    fused = style.is_fused(next(iter(found.values()))[1])
    if None in found:
        name, place, delta = found[None]
        if len(found) > 1:
            raise ValueError(f"{name}: the file has this weight whole and in parts")
        if place.is_fused and not fused:
            sizes = _sizes(one, place, delta.shape, name)
            pieces = _told(name, lambda: split(delta, sizes))
            for k, piece in enumerate(pieces):
                yield name, style.name(replace(place, part=k)), piece
            return
        new = style.name(place)
        if place.rule.swapped and _turns(name, new, place) and _halves(delta):
            delta = _told(name, lambda: swapped(delta))
        yield name, new, delta
        return
    if not fused:
        for name, place, delta in found.values():
            yield name, style.name(place), delta
        return
    name, place, first = next(iter(found.values()))
    deltas = [found[k][2] if k in found else None for k in range(len(place.rule.parts))]
    inputs = prod((first.shape or (0, 0))[1:])
    sizes = _rows(one, place, deltas, inputs, name)
    yield name, style.name(replace(place, part=None)), _told(name, lambda: join(deltas, sizes, inputs))


def _sizes(one: Architecture, place: Place, shape: tuple[int, ...] | None, name: str) -> tuple[int, ...]:
    sizes = place.rule.sizes(shape[0], prod(shape[1:])) if shape is not None and len(shape) > 1 else None
    if sizes is None:
        raise ValueError(f"{name}: {one.title} has it in {len(place.rule.parts)} parts, and it cannot be so divided")
    return sizes


def _rows(one: Architecture, place: Place, deltas: Iterable[Delta | None], inputs: int, name: str) -> tuple[int, ...]:
    """How many rows each part has, those that the file lacks too."""
    shapes = [delta.shape if delta is not None else None for delta in deltas]
    rows = [shape[0] if shape is not None else None for shape in shapes]
    if all(row is not None for row in rows):
        return tuple(row or 0 for row in rows)
    ratio = one.ratios.get(place.rule.original)
    total = round(ratio * inputs) if ratio is not None else len(rows) * next(row for row in rows if row is not None)
    sizes = place.rule.sizes(total, inputs)
    if sizes is None or any(row not in (None, size) for row, size in zip(rows, sizes, strict=True)):
        raise ValueError(f"{name}: its weight is whole where it goes to, and what of it is missing is not known")
    return sizes


def _told(name: str, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None


def _turns(old: str, new: str, place: Place) -> bool:
    """Whether a rename is from the original's name to diffusers', or back."""
    return _is_original(old, place) != _is_original(new, place)


def _is_original(name: str, place: Place) -> bool:
    spelled = stranger(name)
    return spelled is not None and _flat(spelled.path) == _flat(place.original)


def _halves(delta: Delta) -> bool:
    """Whether the rows are a shift and a scale for each input: other norms have more of them, in one order everywhere."""
    shape = delta.shape
    return shape is not None and len(shape) > 1 and shape[0] == 2 * prod(shape[1:])


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
