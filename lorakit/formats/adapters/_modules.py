"""From tensors grouped by module to an adapter, and what all writers share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lorakit import deltas
from lorakit.adapter import Adapter
from lorakit.arrays import (
    SIZES,
    Array,
    Stored,
    cast,
    changed,
    dtype_of,
    floats,
    is_torch,
    number,
    raw,
    same_bytes,
    times_power_of_two,
)  # fmt: skip
from lorakit.deltas._base import Delta
from lorakit.deltas.low_rank import LowRank
from lorakit.errors import some
from lorakit.families import FAMILIES, Shape, table_of
from lorakit.formats.adapters._spellings import UNREAD
from lorakit.formats.evidence import are_strangers, family_of

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
        modules, metadata, biases, unknown=groups.unknown, faults=tuple(faults), notes=tuple(notes), format=name,
        keys={module: one.keys[0] for module, one in found.items()},
        spelled={module: tuple(one.keys) for module, one in found.items()},
    )  # fmt: skip
    return _fitted(adapter, parts_by_name)


@dataclass
class _Found:
    """Of one module: factor to (key, array), and all of its keys."""

    tensors: Mapping[str, tuple[str, Array]]
    keys: list[str]


def _by_module(
    groups: Groups, names: Mapping[str, str | None], notes: list[str]
) -> tuple[dict[str, _Found], list[str]]:
    """(module to what is found of it, faults). Two spellings of a module count once where all they say is the same."""
    modules: dict[str, _Found] = {}
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
            modules[module] = _Found(found, keys)
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


def scaled(x: Array, factor: float) -> Array:
    """x * factor with no more rounding than float32 has: a half-precision array becomes float32 where its own type
    cannot hold the product (any factor but a power of two, or one that leaves its range)."""
    if factor == 1:
        return x
    kind = dtype_of(x)
    if kind in ("F16", "BF16"):
        mantissa, exponent = math.frexp(factor)
        if isinstance(x, Stored) and mantissa == 0.5:
            found = times_power_of_two(x, exponent - 1)
            if found is not None and found[1] < LOSS:
                return found[0]
        if abs(mantissa) != 0.5 or not _holds(x, factor, kind):
            kind = "F32"
    elif kind != "F64":
        kind = "F32"
    return changed(x, kind, lambda values: values * factor)


def _holds(x: Array, factor: float, kind: str) -> bool:
    """Whether x * factor is as good in its own type: numbers that end below the normal ones may lose their last bits."""
    product = floats(x) * factor
    lost = floats(cast(product, kind)) - product
    return bool((lost * lost).sum() <= LOSS**2 * (product * product).sum())


def with_scale(delta: LowRank, alpha: float) -> LowRank:
    """The same delta at another alpha: the ratio goes into the factors, powers of two split between them."""
    ratio = delta.alpha / alpha
    if ratio == 1:
        return delta
    mantissa, exponent = math.frexp(ratio)  # ratio = mantissa * 2**exponent, 0.5 <= |mantissa| < 1
    half = exponent // 2
    return LowRank(scaled(delta.down, 2.0**half), scaled(delta.up, mantissa * 2.0 ** (exponent - half)), alpha)


def shaped(delta: LowRank, wanted: Shape | None) -> LowRank:
    """Factors with as many dimensions as the weight has: clients refuse a linear module's as a 1x1 convolution's."""
    if wanted is None or len(wanted) not in (2, 4):
        return delta
    down, up = delta.down, delta.up
    if len(wanted) == 4:
        down = down if down.ndim == 4 else reshaped(down, (down.shape[0], *wanted[1:]))
        up = up if up.ndim == 4 else reshaped(up, (*up.shape, 1, 1))
    else:
        down = down if down.ndim == 2 else reshaped(down, (down.shape[0], math.prod(down.shape[1:])))
        up = up if up.ndim == 2 else reshaped(up, tuple(up.shape[:2]))
    return LowRank(down, up, delta.alpha)


def reshaped(x: Array, shape: Shape) -> Array:
    """The same values in another shape, read when they are asked for."""
    return Stored(x.dtype, shape, x.raw) if isinstance(x, Stored) else x.reshape(shape)


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


def balanced(delta: LowRank) -> LowRank:
    """Factors whose largest values are within a power of two of each other: none leaves half precision's range."""
    tops = [float(abs(floats(x)).max()) for x in (delta.up, delta.down)]
    if not all(tops):
        return delta
    shift = round(math.log2(tops[0] / tops[1]) / 2)
    if shift == 0:
        return delta
    down = changed(delta.down, "F32", lambda values: values * 2.0**shift)
    return LowRank(down, changed(delta.up, "F32", lambda values: values * 2.0**-shift), delta.alpha)


def common_alpha(alphas: Iterable[float]) -> float:
    """The commonest alpha, if every float type holds it exactly (8 bits of mantissa), else 1."""
    counts = Counter(alphas)
    if not counts:
        return 1.0
    most = max(counts.items(), key=lambda item: (item[1], item[0]))[0]
    mantissa, _ = math.frexp(most)
    return most if most > 0 and math.isfinite(most) and mantissa * 256 == int(mantissa * 256) and most < 2**15 else 1.0


def scalar(value: float, like: Array) -> Array:
    """A float32 scalar for a file, numpy or torch as its module is."""
    if is_torch(like):
        import torch

        return torch.tensor(value, dtype=torch.float32)
    return np.array(value, np.float32)
