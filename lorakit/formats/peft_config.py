"""PEFT's LoraConfig: what scale it gives each module, and what of it makes the tensors mean something else."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lorakit.io.plain import json_object
from lorakit.patterns import Pattern, Time

# Settings that are files' own and wrong for any other: never copied from one file to another.
STALE = ("lora_adapter_metadata", "adapter_config")
_ALTERS_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")  # what they take from the base, the factors give back
_READ = ("LORA", "LOHA", "LOKR", "OFT")
_UNREAD = (
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "arrow_config",
    "alora_invocation_tokens",
    "monteclora_config",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "coft",
)


@dataclass(frozen=True)
class PeftConfig:
    """The settings of one part. `source` names where they stand, for faults."""

    values: Mapping[str, Any]
    source: str

    @staticmethod
    def read(text: str, source: str) -> PeftConfig:
        """ValueError where the text is no JSON object."""
        try:
            return PeftConfig(json_object(text), source)
        except ValueError as error:
            raise ValueError(f"{source}: not JSON ({error})") from error

    def faults(self) -> list[str]:
        """What of it says that the tensors are not simply up @ down times a scale."""
        kind, init = self.values.get("peft_type") or "LORA", str(self.values.get("init_lora_weights")).lower()
        wrong = []
        if str(kind).rpartition(".")[2] not in _READ:
            wrong.append(f"{self.source}: peft_type is {kind}; lorakit reads {', '.join(_READ)}")
        if init.startswith(_ALTERS_BASE):
            wrong.append(
                f"{self.source}: init_lora_weights is {init}, which altered the base model as well; convert it in PEFT "
                "first (save_pretrained with path_initial_model_for_weight_conversion)"
            )
        wrong += [
            f"{self.source}: {key} is set, which lorakit does not read" for key in _UNREAD if self.values.get(key)
        ]
        return wrong

    def notes(self) -> list[str]:
        if not self.values.get("fan_in_fan_out"):
            return []
        return [f"{self.source}: fan_in_fan_out is set, and has no meaning for linear modules and convolutions"]

    def alpha(self, path: str, rank: int) -> float:
        """alpha so that alpha / rank is the scale PEFT gives the module; ValueError where its rank should be another."""
        wanted = self.rank(path)
        if wanted != rank:
            raise ValueError(f"its rank is {rank}, but {self.source} says {wanted:g}")
        alpha = self._of(
            "alpha", "alpha" if self.values.get("peft_type") in ("LOHA", "LOKR") else "lora_alpha", 8, path
        )
        if alpha == 0 or not math.isfinite(alpha):
            raise ValueError(f"{self.source} gives it alpha {alpha:g}")
        return alpha * math.sqrt(rank) if self.values.get("use_rslora") else alpha

    def rank(self, path: str) -> float:
        """The rank that it gives the module at `path`."""
        return self._of("rank", "r", 8, path)

    def terms(self) -> int | None:
        """How many terms of Neumann's series an OFT has for its rotations; None for the rotations themselves."""
        count = self.values.get("num_cayley_neumann_terms", 5)
        if not self.values.get("use_cayley_neumann", True):
            return None
        if isinstance(count, bool) or not isinstance(count, int) or not 0 < count < 100:
            raise ValueError(f"{self.source} has num_cayley_neumann_terms {count!r}, expected a number from 1 to 99")
        return count

    def _of(self, pattern: str, key: str, absent: int, path: str) -> float:
        value = self._patterns[pattern].find(path)
        value = self.values.get(key, absent) if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{self.source} has {key} {value!r}, expected a number")
        return value

    @cached_property
    def _patterns(self) -> dict[str, _Patterns]:
        patterns = {name: self.values.get(f"{name}_pattern") or {} for name in ("rank", "alpha")}
        for name, value in patterns.items():
            if not isinstance(value, dict):
                raise ValueError(f"{self.source} has a {name}_pattern that is no JSON object")
        time = Time()
        return {name: _Patterns(value, self.source, time) for name, value in patterns.items()}


class _Patterns:
    """rank_pattern or alpha_pattern: the first pattern that is the module's path, or the end of it, decides."""

    def __init__(self, patterns: Mapping[str, Any], source: str, time: Time) -> None:
        self.values = list(patterns.values())
        self.plain: dict[str, int] = {}  # most are paths; thousands of those are looked up, not tried in turn
        self.others: list[tuple[int, Pattern]] = []
        for i, pattern in enumerate(patterns):
            if re.fullmatch(r"\^?[\w.]+", pattern):
                self.plain.setdefault(pattern, i)
                continue
            try:
                self.others.append((i, Pattern(rf"(.*\.)?({pattern})$", source, time=time)))
            except ValueError as error:
                raise ValueError(
                    f"{source} has a pattern {pattern[:80]!r} that is no regular expression: {error}"
                ) from error

    def find(self, path: str) -> Any:
        """The value for the module at `path`, None where none is for it. With and without `text_model.`, which one
        version of transformers has in its modules' paths and the next has not."""
        short = path.removeprefix("text_model.")
        hits = [i for spelled in {path, short, f"text_model.{short}"} for i in self._hits(spelled)]
        return self.values[min(hits)] if hits else None

    def _hits(self, path: str) -> Iterable[int]:
        words = path.split(".")
        names = [f"^{path}", *(".".join(words[n:]) for n in range(len(words)))]
        yield from (self.plain[name] for name in names if name in self.plain)
        yield from (i for i, pattern in self.others if pattern.match(path))


def settings(ranks: Mapping[str, int], dora: bool = False) -> dict[str, Any]:
    """LoraConfig fields for modules at scale 1: path to rank. Paths of text encoders without `text_model.`, which then
    match in every version of transformers, since a pattern matches at the end of a path."""
    r = Counter(ranks.values()).most_common(1)[0][0]
    ranks = {path.removeprefix("text_model."): rank for path, rank in ranks.items()}
    other = {path: rank for path, rank in sorted(ranks.items()) if rank != r}
    return {
        "r": r,
        "lora_alpha": r,
        "rank_pattern": other,
        "alpha_pattern": other,
        "target_modules": sorted(ranks),
        "use_rslora": False,
        "use_dora": dora,
        "lora_bias": False,
    }
