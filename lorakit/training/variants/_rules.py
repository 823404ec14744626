"""Which modules are trained, and how: presets of names, and rules by regular expression, the first match wins."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lorakit.errors import InputError, UsageError
from lorakit.patterns import Pattern, Time
from lorakit.targets import canonical

# What each preset names in a UNet, and in a text encoder.
PRESETS = {
    "attention": (r"attentions\..*\.attn[12]\.to_(q|k|v|out\.0)$", r"self_attn\.(q|k|v|out)_proj$"),
    "attention+ff": (r"attentions\..*\.(attn[12]\.|ff\.)", r"self_attn\.(q|k|v|out)_proj$|mlp\.fc[12]$"),
    "all": (r"attentions|resnets|samplers", r"self_attn\.(q|k|v|out)_proj$|mlp\.fc[12]$"),
}

_MOST_RULES = 1000


@dataclass(frozen=True, kw_only=True)
class TargetRule:
    """For the modules whose full name ("unet.down_blocks.0...") `pattern` is found in; None leaves a value as it is.

    rate    factor on the learning rate
    on      False leaves the module out
    """

    pattern: str
    rank: int | None = None
    alpha: float | None = None
    rate: float | None = None
    on: bool = True


@dataclass(frozen=True, kw_only=True)
class Target:
    """A module to be trained."""

    name: str
    module: Any  # nn.Linear or nn.Conv2d
    rank: int
    alpha: float
    rate: float

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.module.weight.shape)

    @property
    def kind(self) -> str:
        return "conv" if isinstance(self.module, nn.Conv2d) else "linear"


def targets(
    parts: Mapping[str, nn.Module], chosen: str, rules: Sequence[TargetRule], rank: int, alpha: float | None
) -> list[Target]:
    """The modules of `parts` (unet, text_encoder ..) that `chosen` names, a preset or a regular expression.

    alpha   None for each module's own rank: a scale of one; a rule with a rank and no alpha keeps alpha over rank
    raises  UsageError for a pattern that is none, or that matches nothing, with the nearest names; InputError where
            nothing is left to train
    """
    if len(rules) > _MOST_RULES:
        raise UsageError(f"{len(rules):,} rules for the ranks of modules; at most {_MOST_RULES:,} are taken")
    chosen_modules, time = dict(_chosen(parts, chosen)), Time()
    compiled = [(_compiled(rule.pattern, time), rule) for rule in rules]
    for pattern, rule in compiled:
        if not any(pattern.search(name) for name in chosen_modules):
            raise UsageError(f"pattern '{rule.pattern}' matches no target module{_near(rule.pattern, chosen_modules)}")
    found = []
    for name, module in chosen_modules.items():
        rule = next((rule for pattern, rule in compiled if pattern.search(name)), TargetRule(pattern=""))
        if not rule.on:
            continue
        own = rank if rule.rank is None else rule.rank
        scaled = own if alpha is None else alpha * own / rank
        found.append(
            Target(
                name=name,
                module=module,
                rank=own,
                alpha=scaled if rule.alpha is None else rule.alpha,
                rate=1.0 if rule.rate is None else rule.rate,
            )
        )
    if not found:
        raise InputError("the rules leave no module to train")
    return found


def _compiled(pattern: str, time: Time) -> Pattern:
    try:
        return Pattern(pattern, error=UsageError, time=time)
    except ValueError as error:
        raise UsageError(f"'{pattern}' is no regular expression: {error}") from None


def _chosen(parts: Mapping[str, nn.Module], chosen: str) -> Iterator[tuple[str, nn.Module]]:
    every = {
        canonical(f"{part}.{path}"): module
        for part, root in parts.items()
        for path, module in root.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }
    time = Time()
    patterns = tuple(_compiled(p, time) for p in PRESETS.get(chosen, (chosen, chosen)))
    found = {name: m for name, m in every.items() if patterns[not name.startswith("unet.")].search(name)}
    if not found:
        raise UsageError(
            f"--target {chosen}: no linear or convolution module of {', '.join(parts)} matches{_near(chosen, every)}"
        )
    grouped = [name for name, m in found.items() if isinstance(m, nn.Conv2d) and m.groups != 1]
    if grouped:
        raise InputError(f"{grouped[0]} is a convolution in groups, which no variant can train")
    yield from found.items()


def _near(pattern: str, names: Mapping[str, Any]) -> str:
    """The names, or dotted pieces of names, that a pattern is most like."""
    bare = re.sub(r"\\(.)", r"\1", pattern).strip("^$*.")
    pieces = {".".join(parts[:n]) for name in names for parts in [name.split(".")] for n in range(1, len(parts) + 1)}
    pieces |= {".".join(name.split(".")[1:n]) for name in names for n in range(2, name.count(".") + 2)}
    pieces |= {piece for name in names for piece in name.split(".") if not piece.isdigit()}
    close = difflib.get_close_matches(bare, sorted(pieces), n=3, cutoff=0.5)
    return f"; near it are {', '.join(close)}" if close else f"; there is for instance {next(iter(names), 'none')}"


def parse(text: str) -> TargetRule:
    """`PATTERN=RANK`, `PATTERN=RANK:ALPHA`, either with `@RATE`, or `PATTERN=off`; UsageError for anything else."""
    pattern, _, value = text.rpartition("=")
    if pattern and value == "off":
        return TargetRule(pattern=pattern, on=False)
    sizes, at, rate = value.partition("@")
    rank, _, alpha = sizes.partition(":")
    try:
        rule = TargetRule(
            pattern=pattern, rank=int(rank), alpha=float(alpha) if alpha else None, rate=float(rate) if at else None
        )
    except ValueError:
        rule = TargetRule(pattern="", rank=0)
    numbers = [number for number in (rule.alpha, rule.rate) if number is not None]
    if not pattern or (rule.rank or 0) < 1 or not all(0 < number < float("inf") for number in numbers):
        raise UsageError(
            f"'{text}': expected PATTERN=RANK, PATTERN=RANK:ALPHA, with @FACTOR for its learning rate, or PATTERN=off, such "
            "as down_blocks=4"
        )
    return rule
