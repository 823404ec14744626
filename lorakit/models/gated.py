"""Many adapters beside a model, their weights chosen anew at every step; the base weights are never touched.

Every adapted module has two ways to answer. Apart: y = base(x) + up (gate * (down x)), all low-rank adapters stacked into
one pair of factors. Composed: the module's weight plus the weighted deltas, made once for a set of weights and kept; where
there is room the deltas are kept as well, and a set is a few additions.
Which is less work depends on the module's shape, the rank, how many tokens go through it and how often the set comes
back; `Module._apart` weighs them with what was measured. It depends on nothing else: the same command gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lorakit.adapter import Adapter
from lorakit.arrays import finite
from lorakit.delta import Delta
from lorakit.deltas.low_rank import plain
from lorakit.errors import InputError
from lorakit.models.gates import Gates

# What a number of a composed weight costs beside the products that make it, in multiplications: it is allocated, written
# and read. Products of thin factors and of whole weights run at one speed (two cores of an EPYC: 60 GF either way), so
# that all else is counted in multiplications.
_WRITTEN = 32
_GATES = 256  # rows of weights remembered in a module
_PARTS = 32  # parts of a stack remembered
_ADDED = 8  # what a number of a kept delta costs to add


@dataclass(kw_only=True)
class _Term:
    """One adapter's part in a module: its factor there, and the delta unless it is in the stack."""

    adapter: int
    factor: float
    delta: Delta | None = None
    bias: Tensor | None = None
    stacked: bool = False


@dataclass(frozen=True)
class _ActingRanks:
    """Those of a stack's ranks whose terms act: down [R, in * kernel], up [out, R], and which term each rank is of."""

    acting: tuple[bool, ...]
    down: Tensor
    up: Tensor
    rows: Sequence[int]


class Module(nn.Module):
    """A module of the model with adapters beside it."""

    base: Any

    def __init__(self, base: nn.Module, name: str, gates: Gates) -> None:
        super().__init__()
        self.base, self.name, self.gates = base, name, gates
        self.terms: list[_Term] = []
        self.rows: list[int] = []  # of the stack: which term each rank is of
        self.down: Tensor | None = None  # [R, in * kernel], in the weight's dtype
        self.up: Tensor | None = None  # [out, R], scales and factors in it
        self._gates: dict[tuple[Any, ...], Tensor] = {}
        self._parts: dict[tuple[bool, ...], _ActingRanks] = {}
        self.dense = False
        self.light = False  # whole deltas of the stack are kept: another set of weights is a few additions
        self.train(base.training)

    def add(self, adapter: int, factor: float, delta: Delta | None, bias: Tensor | None) -> None:
        """ValueError where it does not fit."""
        weight = self.base.weight
        term = _Term(
            adapter=adapter,
            factor=factor,
            delta=None,
            bias=None if bias is None else bias.to(weight.device, torch.float32),
        )
        if bias is not None and bias.numel() != weight.shape[0]:
            raise ValueError(f"a bias of {bias.numel()} for {weight.shape[0]} outputs")
        if delta is not None and delta.exact:
            up, down = (x.float() for x in plain(delta).factors())
            if (up.shape[0], down.shape[1]) != (weight.shape[0], prod(weight.shape[1:])):
                raise ValueError(f"it is {plain(delta).shape}, the model's {tuple(weight.shape)}")
            place = {"device": weight.device, "dtype": weight.dtype}
            up, down = (up * factor).to(**place), down.to(**place)
            self.up = up if self.up is None else torch.cat([self.up, up], 1)
            self.down = down if self.down is None else torch.cat([self.down, down])
            self.rows += [len(self.terms)] * down.shape[0]
            term.stacked = True
        elif delta is not None:
            if delta.shape is not None and prod(delta.shape) != weight.numel():
                raise ValueError(f"it is {delta.shape}, the model's {tuple(weight.shape)}")
            term.delta = delta.mapped(lambda x: x.to(weight.device) if isinstance(x, Tensor) else x)
            self.dense = True
            if delta.shape is None:
                self._dense_delta(term)  # says whether it fits
        self.terms.append(term)
        self._parts.clear()

    def forward(self, x: Tensor, *rest: Any, **more: Any) -> Any:
        now = self.gates.now
        if now.learned is not None:
            learnt = tuple(now.learned(term.adapter, self.name) for term in self.terms)
            part = self._part([True] * len(learnt))
            if part is not None and self._apart(x, 1, part):
                return self._beside(x, part, self._gate(learnt, part), self._bias(learnt))
            return self._answer(x, learnt, None, rest, more)
        if now.several:
            sets = [tuple(weights[term.adapter] for term in self.terms) for weights in now.several]
            if len(set(sets)) > 1:
                part = self._part([any(weights) for weights in zip(*sets, strict=True)])
                assert part is not None  # rowwise: all that acts is on the stack
                return self._beside(x, part, self._rows(sets, part, x), None)
        first = now.several[0] if now.several else now.weights
        live = tuple(first[term.adapter] for term in self.terms) if first else ()
        if not any(live):
            return self.base(x, *rest, **more)
        part = self._part(list(map(bool, live)))
        if part is not None and self._apart(x, now.uses, part):
            return self._beside(x, part, self._gate(live, part), self._bias(live))
        return self._answer(x, live, now.uses, rest, more)

    def _part(self, acting: Sequence[bool]) -> _ActingRanks | None:
        """The stack of the terms that act: one at weight 0 costs nothing, and leaves no trace in the last bits. None where
        none of them is on the stack."""
        if self.up is None or self.down is None:
            return None
        key = tuple(acting)
        found = self._parts.get(key)
        if found is None:
            at = [k for k, term in enumerate(self.rows) if key[term]]
            if not at:
                return None
            together = at[-1] - at[0] + 1 == len(at)  # then it is a view
            where: Any = slice(at[0], at[-1] + 1) if together else at
            found = _ActingRanks(key, self.down[where], self.up[:, where], [self.rows[k] for k in at])
            if len(self._parts) >= _PARTS:
                self._parts.clear()
            self._parts[key] = found
        return found

    def _apart(self, x: Tensor, uses: float, part: _ActingRanks) -> bool:
        """Whether the stack beside the module is less work than composing its weight."""
        if self.dense or not isinstance(self.base, nn.Linear | nn.Conv2d):
            return False
        rank, (out, width) = len(part.rows), (self.base.weight.shape[0], part.down.shape[1])
        tokens = x.numel() // x.shape[-1]
        if isinstance(self.base, nn.Conv2d):
            tokens = x.numel() // x.shape[1] // prod(self.base.stride)
        made = _ADDED * len(set(part.rows)) if self.light else rank
        return uses * tokens * rank * (out + width) <= (made + _WRITTEN) * out * width

    def _gate(self, live: Sequence[Any], part: _ActingRanks) -> Tensor:
        """The weight of each rank of the part, [R]; `live` holds numbers, or tensors with a gradient."""
        weight = self.base.weight
        if isinstance(live[0], Tensor):
            return torch.stack([live[i] for i in part.rows]).to(weight)
        key = (part.acting, *live)
        found = self._gates.get(key)
        if found is None:  # made once: each is a copy to the device
            found = torch.tensor([live[i] for i in part.rows], dtype=weight.dtype, device=weight.device)
            if len(self._gates) >= _GATES:
                self._gates.clear()
            self._gates[key] = found
        return found

    def _rows(self, sets: Sequence[Sequence[float]], part: _ActingRanks, x: Tensor) -> Tensor:
        """The gates of equal stretches of the batch, as they multiply what the stack's first half gives."""
        gates = torch.stack([self._gate(live, part) for live in sets]).repeat_interleave(len(x) // len(sets), 0)
        if isinstance(self.base, nn.Conv2d):
            return gates[:, :, None, None]
        return gates.view(len(x), *(1,) * (x.dim() - 2), -1)

    def _beside(self, x: Tensor, part: _ActingRanks, gate: Tensor, bias: Tensor | None) -> Tensor:
        base: Any = self.base
        if isinstance(base, nn.Conv2d):
            down = part.down.view(-1, *base.weight.shape[1:])
            inner = functional.conv2d(x, down, None, base.stride, base.padding, base.dilation)
            gate = gate if gate.dim() > 1 else gate[:, None, None]
            y = base(x) + functional.conv2d(inner * gate, part.up[:, :, None, None])
            return y if bias is None else y + bias[:, None, None].to(y.dtype)
        y = base(x)
        inner = (functional.linear(x, part.down) * gate).view(-1, len(part.rows))
        y = y.view(-1, y.shape[-1]).addmm_(inner, part.up.T).view(y.shape)
        return y if bias is None else y + bias.to(y.dtype)

    def _bias(self, live: Sequence[Any]) -> Tensor | None:
        """What is added to the bias, float32."""
        found: Tensor | None = None
        for term, weight in zip(self.terms, live, strict=True):
            if term.bias is not None:
                mine = term.bias * (weight * term.factor)
                found = mine if found is None else found + mine
        return found

    def _answer(self, x: Tensor, live: Sequence[Any], uses: float | None, rest: Any, more: Any) -> Any:
        """By the composed weight; `uses` None is while weights are learned, when nothing is kept."""
        base = self.base
        if uses is not None and uses > 1:
            weight = self.gates.kept.get((self.name, *live), lambda: self._composed(live, keep=False))
        else:
            weight = self._composed(live, keep=uses is not None)
        added = self._bias(live)
        bias = getattr(base, "bias", None)
        if added is not None:
            bias = added.to(weight.dtype) if bias is None else (bias.float() + added).to(bias.dtype)
        if isinstance(base, nn.Linear):
            return functional.linear(x, weight, bias)
        if isinstance(base, nn.Conv2d):
            return base._conv_forward(x, weight, bias)
        held = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        return torch.func.functional_call(base, held, (x, *rest), more)

    def _composed(self, live: Sequence[Any], keep: bool) -> Tensor:
        """The weight plus the adapters' deltas at their weights, worked out in float32.

        keep    the deltas that are no products, for the next set of weights: what is kept for a set is kept instead
        """
        base: Tensor = self.base.weight
        whole = base.float()
        if self.light and keep:
            return self._added(live, whole).to(base.dtype)
        part = self._part([isinstance(weight, Tensor) or bool(weight) for weight in live])
        if part is not None:
            gated = part.up.float() * self._gate(live, part).float()
            whole = torch.addmm(whole.flatten(1), gated, part.down.float()).view(base.shape)
        for i, (term, weight) in enumerate(zip(self.terms, live, strict=True)):
            if term.delta is not None and (isinstance(weight, Tensor) or weight):
                make = partial(self._dense_delta, term)
                dense = self.gates.kept.get((self.name, "delta", i), make) if keep else make()
                whole = whole + dense * (weight * term.factor)
        return whole.to(base.dtype)

    def _added(self, live: Sequence[float], whole: Tensor) -> Tensor:
        """The same from the kept deltas of the stack, which are worked out once."""
        copied = False
        for i, weight in enumerate(live):
            if weight and self.terms[i].stacked:
                delta = self.gates.kept.get((self.name, "delta", i), partial(self._stacked_delta, i))
                whole = whole.add_(delta, alpha=weight) if copied else torch.add(whole, delta, alpha=weight)
                copied = True
        return whole

    def _stacked_delta(self, i: int) -> Tensor:
        """The delta that term i has in the stack, float32."""
        assert self.up is not None and self.down is not None
        mine = [k for k, term in enumerate(self.rows) if term == i]
        return (self.up[:, mine].float() @ self.down[mine].float()).view(self.base.weight.shape)

    def _dense_delta(self, term: _Term) -> Tensor:
        base, delta = self.base.weight, term.delta
        assert delta is not None
        dense: Tensor = delta.delta(base.float())
        if prod(dense.shape) != base.numel():
            raise ValueError(f"it is {tuple(dense.shape)}, the model's {tuple(base.shape)}")
        return dense.reshape(base.shape)


@dataclass(frozen=True)
class Applied:
    """How many modules of each part an adapter reached, and those of its modules that the model has not."""

    counts: Mapping[str, int]
    unmatched: tuple[str, ...]


class Stack:
    """The adapters put beside the modules of `parts`; `remove` takes all off and leaves the model bit for bit as it was."""

    def __init__(self, parts: Mapping[str, nn.Module], limit: int | None = None) -> None:
        """limit    bytes of weights to keep; by default one copy of the weights that are adapted, and 64 MB where that is
        less. Where the deltas of all adapters fit into half of it, they are kept too."""
        self.parts, self.gates, self._limit = dict(parts), Gates(1 << 62), limit
        self.modules: dict[str, Module] = {}

    def add(self, number: int, adapter: Adapter, factor: Callable[[str], float], source: str) -> Applied:
        """Put an adapter on as number `number` of the weights; InputError where a module has another shape, a number is
        not finite, or nothing matches. Low-rank ones go on the stack, all others are composed."""
        counts, unmatched, wrong = dict.fromkeys(self.parts, 0), [], []
        names = [*adapter.modules, *(name for name in adapter.biases if name not in adapter.modules)]
        for name in names:
            path = self._path(name)
            if path is None:
                unmatched.append(name)
                continue
            delta, bias = adapter.modules.get(name), adapter.biases.get(name)
            arrays = [*(delta.arrays().values() if delta else ()), *((bias,) if bias is not None else ())]
            if not all(map(finite, arrays)):
                raise InputError(f"{source}: NaN or infinity in {name}")
            part = name.partition(".")[0]
            try:
                self._module(part, path, name).add(number, factor(name), delta, bias)
            except ValueError as error:
                wrong.append(f"{name}: {error}")
            counts[part] += 1
        if wrong:
            raise InputError(f"{source} was made for another base model: {wrong[0]} ({len(wrong)} such)")
        if names and not any(counts.values()):
            raise InputError(f"{source} has no effect: none of its {len(names)} modules is in the model")
        return Applied(counts, tuple(unmatched))

    def ready(self) -> None:
        """Bound what is kept, when all adapters are on."""
        copy = sum(m.base.weight.numel() * m.base.weight.element_size() for m in self.modules.values())
        self.gates.kept.limit = max(copy, 64 << 20) if self._limit is None else self._limit
        deltas = sum(4 * m.base.weight.numel() * sum(t.stacked for t in m.terms) for m in self.modules.values())
        for module in self.modules.values():
            module.light = not module.dense and 2 * (deltas + copy) <= self.gates.kept.limit
        self.copy_bytes = copy

    @property
    def rowwise(self) -> bool:
        """Whether each picture of a batch can have weights of its own: all that acts is on the stacks."""
        return all(
            isinstance(module.base, nn.Linear | nn.Conv2d) and all(t.stacked and t.bias is None for t in module.terms)
            for module in self.modules.values()
        )

    @property
    def room(self) -> int:
        """How many sets of weights can be kept at once."""
        return int(self.gates.kept.limit // max(1, self.copy_bytes))

    def reached(self, part: str) -> set[int]:
        """The numbers of the adapters that reach a part."""
        inside = [m for name, m in self.modules.items() if name.partition(".")[0] == part]
        return {term.adapter for module in inside for term in module.terms}

    def remove(self) -> None:
        for name, module in self.modules.items():
            part = name.partition(".")[0]
            path = self._path(name)
            assert path is not None
            _replace(self.parts[part], path, module.base)
        self.modules.clear()
        self.gates.kept.clear()

    def _path(self, name: str) -> str | None:
        """Where the model has the module; newer transformers leave `text_model.` out."""
        part, _, path = name.partition(".")
        for spelled in (path, path.removeprefix("text_model.")):
            try:
                found = self.parts[part].get_submodule(spelled)
            except (KeyError, AttributeError):
                continue
            if isinstance(getattr(found, "weight", None), Tensor) or isinstance(found, Module):
                return spelled
        return None

    def _module(self, part: str, path: str, name: str) -> Module:
        if name not in self.modules:
            self.modules[name] = Module(self.parts[part].get_submodule(path), name, self.gates)
            _replace(self.parts[part], path, self.modules[name])
        return self.modules[name]


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)
