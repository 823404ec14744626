"""What an extraction can be told, and what its file says of that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lorakit.composition.module_weights import PARTS
from lorakit.errors import UsageError
from lorakit.families import FAMILIES
from lorakit.lowrank.ranks import RankRule
from lorakit.lowrank.solve import Way, is_kernel
from lorakit.naming import spelled
from lorakit.registry import nearest

TOKENS = "tokens"


@dataclass(frozen=True, kw_only=True)
class ExtractionChoices:
    """What an extraction can be told.

    rule            what decides the ranks; None is rank 32 with a base model, and leaves an adapter as it is
    conv_rank       at most this for kernels larger than 1x1; under a fixed rank, this
    conv_tucker     those kernels as up, core and down
    target, parts   which modules; target "attention", "attention+ff", "all" or a regular expression, parts all if empty
    clamp_quantile  factors' values beyond this quantile are cut to it, as sd-scripts does
    exact           complete decompositions only
    keep_bias       changed biases and norms become part of the adapter
    """

    rule: RankRule | None = None
    conv_rank: int | None = None
    conv_tucker: bool = False
    target: str = "all"
    parts: Sequence[str] = ()
    clamp_quantile: float | None = None
    exact: bool = False
    keep_bias: bool = False

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in (*PARTS, TOKENS)]
        if unknown:
            hints = "; ".join(f"no part '{part}'{nearest(part, (*PARTS, TOKENS))}" for part in unknown)
            raise UsageError(f"--parts: {hints} (there are: {', '.join((*PARTS, TOKENS))})")

    def rule_of(self, shape: Sequence[int], default: RankRule | None = None) -> RankRule:
        """The rule for a weight of this shape."""
        rule = self.rule or default or RankRule("full")
        if self.conv_rank is None or not is_kernel(shape):
            return rule
        if rule.kind in ("fixed", "full"):
            return RankRule("fixed", self.conv_rank, rule.cap)
        return replace(rule, cap=min(self.conv_rank, rule.cap or self.conv_rank))

    def way_of(self, shape: Sequence[int], default: RankRule | None = None) -> Way:
        return Way(self.rule_of(shape, default), self.exact, self.conv_tucker, self.clamp_quantile)


def metadata(
    tuned: str, base: str | None, choices: ExtractionChoices, rule: RankRule | None, family: str | None
) -> dict[str, str]:
    """What the adapter's file says it was made of."""
    settings = {k: v for k, v in asdict(choices).items() if k != "rule" and v not in (None, False, "all", ())}
    recipe = {
        "tuned": Path(tuned).name,
        **({"base": Path(base).name} if base is not None else {}),
        **({"rank": {k: v for k, v in asdict(rule).items() if v is not None}} if rule is not None else {}),
        **settings,
    }
    found = {"lorakit.extract": json.dumps(spelled(recipe), ensure_ascii=False, sort_keys=True, default=list)}
    if family is not None:
        found["ss_base_model_version"] = FAMILIES[family].version
        found["modelspec.architecture"] = f"{FAMILIES[family].architecture}/lora"
    return found
