"""From tensors grouped by module to an adapter, and what all writers share."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lorakit import deltas
from lorakit.adapter import Adapter
from lorakit.arrays import SIZES, Array, Stored, dtype_of, number, raw, same_bytes
from lorakit.delta import Delta
from lorakit.errors import some
from lorakit.families import FAMILIES, Shape, table_of
from lorakit.formats.evidence import are_strangers, family_of
from lorakit.spellings import UNREAD

ZERO_ALPHA = "alpha 0 is read as the rank"
LOSS = 1e-7  # relative to the norm: what counts as no loss
_BIAS = ("diff_b", "b_norm", "lora_up.bias")


@dataclass
class Groups:
    """Tensors by module, as a codec finds them: the file's name of the module to ending to (key, array).

    again   keys that say of a module what another key has said, in another spelling
    """

    modules: dict[str, dict[str, tuple[str, Array]]] = field(default_factory=dict)
    again: dict[str, list[str]] = field(default_factory=dict)
    unknown: dict[str, Array] = field(default_factory=dict)

    def add(self, stem: str, ending: str, key: str, array: Array) -> None:
        self.modules.setdefault(stem, {})[ending] = (key, array)


def is_same(a: Array, b: Array) -> bool:
    """Whether two tensors are the same to the bit, so that one of them says all."""
    return dtype_of(a) == dtype_of(b) and tuple(a.shape) == tuple(b.shape) and same_bytes(raw(a), raw(b))


def shapes_of(adapter: Adapter) -> dict[str, Shape | None]:
    """Module name to the shape of the weight it is added to, None where its tensors do not tell."""
    return {name: delta.shape for name, delta in adapter.modules.items()}


def build(groups: Groups, resolve: Callable[[str], str | None], metadata: Mapping[str, str], name: str) -> Adapter:
    """The adapter of the grouped tensors; whatever does not fit becomes a fault that begins with its key.

    resolve     the file's name of a module to ours, None where no table has it. Where it has none of them the file is
                for an architecture without tables, and names stay as they are spelled
    """
    notes: list[str] = []
    names = _named(groups.modules, resolve, notes)
    found, faults = _by_module(groups, names, notes)
    modules: dict[str, Delta] = {}
    biases: dict[str, Array] = {}
    parts_by_name: dict[str, dict[str, Array]] = {}
    for module, one in found.items():
        parts = {ending: array for ending, (_, array) in one.tensors.items()}
        try:
            bias, delta = _read(module, parts, notes)
        except ValueError as error:
            faults.append(f"{one.keys[0]}: {error}")
            continue
        if bias is not None:
            biases[module] = bias
        if delta is not None:
            modules[module], parts_by_name[module] = delta, parts
    adapter = Adapter(
        modules=modules,
        metadata=metadata,
        biases=biases,
        unknown=groups.unknown,
        faults=tuple(faults),
        notes=tuple(notes),
        format=name,
        keys={module: one.keys[0] for module, one in found.items()},
        spelled={module: tuple(one.keys) for module, one in found.items()},
    )
    return _fitted(adapter, parts_by_name)


@dataclass
class _ModuleTensors:
    """Of one module: factor to (key, array), and all of its keys."""

    tensors: Mapping[str, tuple[str, Array]]
    keys: list[str]


def _by_module(
    groups: Groups, names: Mapping[str, str | None], notes: list[str]
) -> tuple[dict[str, _ModuleTensors], list[str]]:
    """(module to what is found of it, faults). Two spellings of a module count once where all they say is the same."""
    modules: dict[str, _ModuleTensors] = {}
    faults: list[str] = []
    twice = [module for stem in groups.again if (module := names[stem]) is not None]
    for stem, found in groups.modules.items():
        module = names[stem]
        keys = [*(key for key, _ in found.values()), *groups.again.get(stem, ())]
        if unread := sorted(found.keys() & UNREAD.keys()):
            faults.append(f"{found[unread[0]][0]}: {UNREAD[unread[0]]}")
        elif module is None:
            faults += [f"{key}: the base model families have no such module" for key in keys]
        elif module not in modules:
            modules[module] = _ModuleTensors(found, keys)
        elif _are_same(found, modules[module].tensors):
            modules[module].keys += keys
            twice.append(module)
        else:
            faults += [f"{key}: a second spelling of {modules[module].keys[0]}" for key in keys]
    if twice:
        notes.append(f"spelled in two ways with equal tensors, which count once: {some(twice, 4)}")
    return modules, faults


def _named(stems: Collection[str], resolve: Callable[[str], str | None], notes: list[str]) -> dict[str, str | None]:
    """The file's name of each module to ours; to itself where the module is of an architecture without tables."""
    names = {stem: resolve(stem) for stem in stems}
    if names and not any(names.values()):
        notes.append("its modules are of an architecture that lorakit has no tables for; names are kept as spelled")
        return {stem: stem for stem in names}
    lost = [stem for stem, module in names.items() if module is None]
    if not lost or any((module or "").startswith("unet.") for module in names.values()):
        return names
    if are_strangers([stem for stem, module in names.items() if module in (None, stem)]):
        names |= {stem: stem for stem in lost}
    return names


def _are_same(a: Mapping[str, tuple[str, Array]], b: Mapping[str, tuple[str, Array]]) -> bool:
    return a.keys() == b.keys() and all(is_same(array, b[ending][1]) for ending, (_, array) in a.items())


def _read(module: str, parts: dict[str, Array], notes: list[str]) -> tuple[Array | None, Delta | None]:
    """(bias delta, delta) of one module; takes the bias out of `parts` and settles the alpha."""
    bias = next((parts.pop(ending) for ending in _BIAS if ending in parts), None)
    if "alpha" in parts and "oft_blocks" not in parts:
        value = number(parts["alpha"])
        if math.isnan(value):
            raise ValueError("its alpha is NaN")
        if value == 0:
            notes.append(f"{module}: {ZERO_ALPHA}, as sd-scripts does (A1111, ComfyUI and diffusers apply nothing)")
            del parts["alpha"]
    return bias, (deltas.read(parts) if parts else None)


def _fitted(adapter: Adapter, parts: Mapping[str, dict[str, Array]]) -> Adapter:
    """Shapes compared with the family's: flat kernels get theirs, what does not fit becomes a fault."""
    family = family_of(adapter).family
    if family is None:
        return adapter
    weights = table_of(family, shapes_of(adapter))
    modules, faults = dict(adapter.modules), list(adapter.faults)
    for name, delta in adapter.modules.items():
        wanted, shape = weights.get(name), delta.shape
        if wanted is None:
            faults.append(f"{adapter.keys[name]}: {family} has no module {name}")
            continue
        if shape is None or flat(shape) == flat(wanted):
            if shape is not None and len(wanted) == 4 and len(shape) == 2 and flat(wanted)[1] != wanted[1]:
                modules[name] = deltas.read(parts[name], wanted)
            continue
        turned = "; it is transposed" if flat(shape) == flat(wanted)[::-1] else ""
        faults.append(f"{adapter.keys[name]}: a delta of {_x(shape)} for a weight of {_x(wanted)} in {family}{turned}")
    return replace(adapter, modules=modules, faults=tuple(faults))


def flat(shape: Shape) -> Shape:
    """(out, in * kernel) of a weight's shape."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else shape


def _x(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


# Writing


@dataclass(frozen=True)
class Context:
    """What a writer may know of the base model: its family, and its modules' shapes where there are tables or a model.

    sure    whether the file may say of itself that it is of the family: another may fit as well
    """

    family: str | None = None
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    sure: bool = True

    @staticmethod
    def of(adapter: Adapter, families: Sequence[str] | None = None) -> Context:
        """`families` are those that the adapter can be for, the likeliest first, where more is known than it tells."""
        found = family_of(adapter).families if families is None else [name for name in families if name in FAMILIES]
        if not found:
            return Context()
        return Context(found[0], table_of(found[0], shapes_of(adapter)), len(found) == 1)


@dataclass(frozen=True)
class Encoded:
    """A written adapter: one file's tensors and metadata, or a folder's.

    losses  what the format cannot hold, a line each, the module or token first
    folder  for formats that are a folder: relative path to (tensors, metadata) of a safetensors file, or to text
    """

    tensors: dict[str, Array] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    losses: tuple[str, ...] = ()
    folder: Mapping[str, tuple[dict[str, Array], dict[str, str]] | str] = field(default_factory=dict)


def rows_of(x: Array, count: int) -> list[Array] | None:
    """An array cut into so many of as many rows, read when they are asked for; None where it cannot be."""
    if x.ndim == 0 or x.shape[0] % count:
        return None
    size = x.shape[0] // count
    if not isinstance(x, Stored):
        return [x[i * size : (i + 1) * size] for i in range(count)]
    return [_rows(x, i * size, (i + 1) * size) for i in range(count)]


def _rows(x: Stored, start: int, end: int) -> Stored:
    row = math.prod(x.shape[1:]) * SIZES[x.dtype]
    part = x.part or (lambda a, b: x.raw()[a:b])
    return Stored(x.dtype, (end - start, *x.shape[1:]), lambda: part(start * row, end * row))
