"""An optimizer by its name or import path, over groups of parameters with rates of their own."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lorakit.errors import UsageError
from lorakit.registry import OPTIMIZERS, nearest


@dataclass(frozen=True)
class OptimizerGroup:
    """Parameters that share a rate: the run's, at each step, times `factor`."""

    parameters: Mapping[str, nn.Parameter]
    factor: float = 1.0


def groups_of(parameters: Mapping[str, nn.Parameter], rates: Mapping[str, float]) -> list[OptimizerGroup]:
    """One group for each factor there is in `rates` (1 for a name that is not), in the order they first appear."""
    by_factor: dict[float, dict[str, nn.Parameter]] = {}
    for name, parameter in parameters.items():
        by_factor.setdefault(rates.get(name, 1.0), {})[name] = parameter
    return [OptimizerGroup(group, factor) for factor, group in by_factor.items()]


def make(
    name: str, groups: Sequence[OptimizerGroup], rate: float, settings: Sequence[str] = (), *, installed: bool = False
) -> torch.optim.Optimizer:
    """The optimizer `name`, a registered one or `module:Class`, with `settings` as `key=value` texts.

    With `installed` the module is not looked for in the working folder, where files of others may lie.

    UsageError for an unknown name or setting, or a package that is missing.
    """
    values = dict(_setting(text) for text in settings)
    maker: Callable[..., Any] = _imported(name, installed) if ":" in name else OPTIMIZERS[name].make
    known = inspect.signature(maker).parameters
    own = [key for key in known if key not in ("groups", "params", "self")]
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    wrong = [] if open_ended else [key for key in values if key not in own]
    if wrong:
        raise UsageError(
            f"--optimizer-args {wrong[0]}: {name} has no such setting{nearest(wrong[0], own)} (there are: {', '.join(own)})"
        )
    torch_groups = [
        {"params": list(g.parameters.values()), "names": tuple(g.parameters), "factor": g.factor, "lr": rate * g.factor}
        for g in groups
    ]
    try:
        return maker(torch_groups, **values)
    except (TypeError, ValueError) as reason:
        raise UsageError(f"--optimizer {name}: {reason}") from None


def set_rates(optimizer: torch.optim.Optimizer, rate: float | Mapping[str, float]) -> None:
    """The rate of this step, for each group by its factor; or of several, by the name in the group's `owner`."""
    for group in optimizer.param_groups:
        own = rate[group["owner"]] if isinstance(rate, Mapping) else rate
        group["lr"] = own * group["factor"]


def found(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The numbers, by name, that an optimizer has found by itself so far; none for most."""
    own: Callable[[], dict[str, Tensor]] | None = getattr(optimizer, "found", None)
    return {} if own is None else own()


@contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Inside the `with` the parameters are those to use and to write; after it, to the bit, those that are trained.

    They are the same ones but for schedule-free optimizers, whose average they are.
    """
    average = getattr(optimizer, "average", None)
    if average is None:
        yield
        return
    kept = [(p, p.detach().clone()) for group in optimizer.param_groups for p in group["params"]]
    average()
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, x in kept:
                parameter.copy_(x)


def moments(optimizer: torch.optim.Optimizer, p: Tensor, *names: str) -> list[Tensor]:
    """Of a parameter the tensors of its state, zeros at first."""
    own = optimizer.state[p]
    for name in names:
        if name not in own:
            own[name] = torch.zeros_like(p, memory_format=torch.preserve_format)
    return [own[name] for name in names]


def _setting(text: str) -> tuple[str, Any]:
    """`key=value`: a number, true, false, none, a comma-separated list of numbers, or a word."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UsageError(f"--optimizer-args '{text}': expected key=value, such as weight_decay=0.01")
    if "," in value:
        return key, tuple(_value(part) for part in value.split(","))
    return key, _value(value)


def _value(text: str) -> Any:
    lower = text.strip().lower()
    if lower == "none":
        return None
    try:
        return json.loads(lower)
    except ValueError:
        return text.strip()


def _imported(path: str, installed: bool) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    try:
        with _without_working_folder() if installed else nullcontext():
            found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as reason:
        hint = "; a module of the working folder is imported where the command line names it" if installed else ""
        raise UsageError(f"--optimizer {path}: {reason}{hint}") from None
    if not (inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)):
        raise UsageError(f"--optimizer {path} is no torch optimizer")
    return found


@contextmanager
def _without_working_folder() -> Iterator[None]:
    """Leaves the working folder, which `python -m` puts first, out of where modules are looked for."""
    kept, here = sys.path, os.path.realpath("")
    sys.path = [entry for entry in kept if os.path.realpath(entry) != here]
    try:
        yield
    finally:
        sys.path = kept
