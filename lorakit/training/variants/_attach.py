"""Branches beside the modules of a model: put there, trained, read out, taken off without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from lorakit.delta import Delta
from lorakit.errors import InputError
from lorakit.training.variants import _dropout
from lorakit.training.variants._branch import Branch, Spec
from lorakit.training.variants._rules import Target

Draw = Callable[[tuple[int, ...], str], Tensor]


@dataclass(frozen=True, kw_only=True)
class TargetRow:
    """One line of `--show-targets`."""

    module: str
    kind: str
    shape: tuple[int, ...]
    rank: int
    alpha: float
    rate: float
    parameters: int


@dataclass(frozen=True)
class Loaded:
    """What `Attached.load` did: module to the relative error of what it is now, where a delta had to be cut."""

    errors: Mapping[str, float]
    unmatched: tuple[str, ...]  # deltas that no trained module is for
    untouched: tuple[str, ...]  # trained modules that no delta was for


def table(targets: Sequence[Target], variant: ModuleType, axis: int = 0) -> list[TargetRow]:
    """The modules, and how many parameters each gets; computes nothing."""
    rows = []
    for t in targets:
        sizes = variant.shapes(t.shape, Spec(t.rank, variant.scale(t.rank, t.alpha), axis=axis))
        rows.append(
            TargetRow(
                module=t.name,
                kind=t.kind,
                shape=t.shape,
                rank=t.rank,
                alpha=t.alpha,
                rate=t.rate,
                parameters=sum(map(prod, sizes.values())),
            )
        )
    return rows


class Attached:
    """Branches in force beside their modules, until `detach`.

    A module's own `forward` gives way to its branch's; its tensors, its name and its state dict stay what they were.

    parameters   "module.parameter" to the float32 parameter
    rates        the same names to their factor on the learning rate
    """

    def __init__(self, branches: Mapping[str, Branch], targets: Sequence[Target], plus: float, dropout: float) -> None:
        self.branches, self.dropout, self.masks = dict(branches), dropout, _dropout.Masks()
        rate_of = {target.name: target.rate for target in targets}
        self.parameters: dict[str, nn.Parameter] = {}
        self.rates: dict[str, float] = {}
        place = 0
        for name, branch in self.branches.items():
            branch.masks, branch.place = self.masks, slice(place, place := place + branch.units)
            for key, parameter in branch.named_parameters():
                self.parameters[f"{name}.{key}"] = parameter
                self.rates[f"{name}.{key}"] = rate_of[name] * (plus if key in branch.RAISED else 1.0)
        self.units = place

    def deltas(self) -> dict[str, Delta]:
        """What each module's weight has gained; tensors of their own, on the model's device."""
        return {name: branch.delta() for name, branch in self.branches.items()}

    def idle(self) -> list[str]:
        """Modules whose weight has gained nothing."""
        return [name for name, branch in self.branches.items() if branch.idle()]

    def detach(self) -> None:
        """Every module is what it was before, to the bit."""
        for branch in self.branches.values():
            branch.base.__dict__.pop("forward", None)

    @contextmanager
    def bare(self) -> Iterator[None]:
        """The untouched model inside the `with`: a prior's teacher, a preview of before. Not beside running threads."""
        self.detach()
        try:
            yield
        finally:
            self._take_over()

    @contextmanager
    def dropping(self, generators: Sequence[torch.Generator]) -> Iterator[None]:
        """Dropout for a batch, one generator a sample, in order; hold it until the backward pass is done.

        Without it, or with a dropout of 0, nothing is left out and nothing is drawn.
        """
        masks = _dropout.draw(generators, self.units, self.dropout) if self.dropout else None
        with self.masks.using(masks):
            yield

    def state(self) -> dict[str, Tensor]:
        """Everything a later run needs to go on to the bit: parameters, and what they are measured from."""
        fixed = {f"{n}.{key}": x for n, branch in self.branches.items() for key, x in branch.state_dict().items()}
        return {name: x.detach() for name, x in fixed.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """From what `state` gave; InputError names every tensor that is missing, left over or of another shape."""
        wrong = []
        for name, branch in self.branches.items():
            for key, x in branch.state_dict(keep_vars=True).items():
                theirs = tensors.get(f"{name}.{key}")
                if theirs is None or theirs.shape != x.shape:
                    wrong.append(f"{name}.{key}" + ("" if theirs is None else f" {tuple(theirs.shape)}"))
                else:
                    x.copy_(theirs)
        known = self.state().keys()
        wrong += [key for key in tensors if key not in known]
        if wrong:
            raise InputError(f"not the state of these {len(self.branches)} branches: {', '.join(wrong[:4])}")

    def load(self, deltas: Mapping[str, Delta]) -> Loaded:
        """Go on from an adapter: every branch for whose module there is a delta becomes it; the others stay as they are.

        A low-rank delta of less rank is filled up, exactly; one of more is cut to the nearest, and the error told.
        InputError where none fits, or one is of another shape or variant.
        """
        errors = {}
        for name, branch in self.branches.items():
            if name in deltas:
                try:
                    errors[name] = branch.take(deltas[name])
                except (TypeError, ValueError) as reason:
                    raise InputError(f"{name}: cannot go on from this adapter: {reason}") from None
        if not errors:
            raise InputError(
                f"none of the adapter's {len(deltas)} modules is trained here; is it for another family or --target?"
            )
        return Loaded(
            errors, tuple(n for n in deltas if n not in errors), tuple(n for n in self.branches if n not in errors)
        )

    def _take_over(self) -> None:
        for branch in self.branches.values():
            branch.base.forward = branch.forward


def attach(
    targets: Sequence[Target],
    variant: ModuleType,
    draw: Draw,
    *,
    init: str = "gaussian",
    plus: float = 1.0,
    dropout: float = 0.0,
    axis: int = 0,
) -> Attached:
    """Put a branch of `variant` beside every target; the model answers as before until a branch has learnt something.

    draw(shape, "module.parameter") gives standard normal numbers on the CPU.
    plus is LoRA+'s ratio of the rate of up to that of down (Hayou et al., 2024); axis is DoRA's.
    """
    branches: dict[str, Branch] = {}
    for target in targets:
        module: Any = target.module
        if "forward" in vars(module):
            raise ValueError(f"{target.name} has a branch already")
        spec = Spec(target.rank, variant.scale(target.rank, target.alpha), init, axis)
        named: Draw = lambda shape, key, name=target.name: draw(shape, f"{name}.{key}")  # type: ignore[misc]  # noqa: E731
        tensors = variant.start(module.weight, spec, named)
        branches[target.name] = variant.Branch(module, spec, tensors)
    attached = Attached(branches, targets, plus, dropout)
    attached._take_over()
    return attached
