"""How strongly each adapter is applied in each module: `--part-weights`, `--block-weights`. Standard library only."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from lorakit.errors import UsageError
from lorakit.registry import nearest
from lorakit.spellings import place_of

# A model that lorakit does not draw with has a transformer where the others have a UNet, which either name is for.
PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
_SHORT = {"down": "unet.down_blocks", "mid": "unet.mid_block", "up": "unet.up_blocks"}
_BLOCK = re.compile(rf"(down|up)(\.\d+(\..+)?)?|mid(\..+)?|({'|'.join(PARTS)})(\..+)?")
_KNOWN = ("unet.", "text_encoder.", "text_encoder_2.")


def number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{what}: '{text}' is not a number")
    return value


def pairs(text: str, what: str) -> dict[str, float]:
    """ "a=1,b=0.5" by key."""
    found: dict[str, float] = {}
    for piece in text.split(","):
        key, equals, value = (word.strip() for word in piece.partition("="))
        if not key or not equals:
            raise UsageError(f"{what}: '{piece}' is not NAME=NUMBER")
        if key in found:
            raise UsageError(f"{what}: {key} is given twice")
        found[key] = number(value, what)
    return found


def read_parts(texts: Iterable[str]) -> dict[str, float]:
    """Part to weight; a part that is not named has 1."""
    found: dict[str, float] = {}
    for text in texts:
        for part, weight in pairs(text, f"--part-weights {text}").items():
            if part not in PARTS:
                raise UsageError(
                    f"--part-weights {text}: no part '{part}'{nearest(part, PARTS)} (there are: {', '.join(PARTS)})"
                )
            found[part] = weight
    return found


@dataclass(frozen=True)
class Blocks:
    """What one `--block-weights` says: of whom (None: the adapter at the option's place), and weights by block."""

    who: str | None
    weights: Mapping[str, float]


def read_blocks(texts: Iterable[str]) -> list[Blocks]:
    """Each `[FILE_OR_NUMBER:]BLOCK=W,...`. A block is down, down.1, mid, up.0, or the beginning of a module's name."""
    found = []
    for text in texts:
        head, equals, tail = text.partition("=")
        who, _, first = head.rpartition(":")
        weights = pairs(f"{first}{equals}{tail}", f"--block-weights {text}")
        for block in weights:
            try:
                block_name(block)
            except ValueError as error:
                raise UsageError(f"--block-weights {text}: {error}") from None
        found.append(Blocks(who or None, weights))
    return found


def block_name(block: str) -> str:
    """down, down.1, mid, up.0 or the beginning of a module's name as the latter; ValueError for what is no block."""
    if not _BLOCK.fullmatch(block) and not _of_transformer(block):
        known = ("down", "mid", "up", *PARTS, *_transformer_blocks())
        raise ValueError(
            f"no block '{block}'{nearest(block.partition('.')[0], known)} (there are: down, down.0, mid, up, up.1 and so "
            "on, or the beginning of a module's name)"
        )
    return whole(block)


def which(who: str, files: Sequence[Path], option: str) -> int:
    """The place of the adapter called `who`: by its number from 1, its path, its file name or its name's stem."""
    if who.isdigit() and 1 <= int(who) <= len(files):
        return int(who) - 1
    for is_called in (
        lambda file: file == type(file)(who),
        lambda file: file.name == who,
        lambda file: file.stem == who,
    ):
        hits = [i for i, file in enumerate(files) if is_called(file)]
        if len(hits) > 1:
            raise UsageError(
                f"{option}: {len(hits)} adapters are called '{who}'; name it by its number, 1 to {len(files)}"
            )
        if hits:
            return hits[0]
    names = [file.name for file in files]
    raise UsageError(f"{option}: no adapter '{who}'{nearest(who, names)} (there are: {', '.join(names)})")


@dataclass(frozen=True)
class ModuleWeights:
    """The factor of each adapter in each module."""

    parts: Mapping[str, float] = field(default_factory=dict)
    blocks: Sequence[Mapping[str, float]] = ()  # by adapter; the beginning of a module's name to a weight

    @classmethod
    def of(cls, parts: Mapping[str, float], blocks: Sequence[Blocks], files: Sequence[Path]) -> ModuleWeights:
        by_adapter: list[dict[str, float]] = [{} for _ in files]
        for place, one in enumerate(blocks):
            if one.who is None and place >= len(files):
                raise UsageError(f"--block-weights is given {place + 1} times for {len(files)} adapters")
            at = place if one.who is None else which(one.who, files, "--block-weights")
            by_adapter[at] |= {whole(block): weight for block, weight in one.weights.items()}
        return cls(parts, by_adapter)

    def factor(self, adapter: int, module: str) -> float:
        return factor_of(module, self.parts) * factor_of(module, self.blocks[adapter] if self.blocks else {})

    def idle(self, modules: Sequence[Collection[str]]) -> list[str]:
        """What was given a weight and is in no adapter that it is meant for."""
        everything = set().union(*modules)
        found = [f"part {part}" for part in self.parts if not any(within(name, part) for name in everything)]
        for i, blocks in enumerate(self.blocks):
            found += [
                f"block {block} of adapter {i + 1}" for block in blocks if not any(within(n, block) for n in modules[i])
            ]
        return found


def whole(block: str) -> str:
    if _of_transformer(block):
        return f"transformer.{block}"
    head, dot, rest = block.partition(".")
    return f"{_SHORT.get(head, head)}{dot}{rest}"


def within(module: str, block: str) -> bool:
    """Whether a module is in a part or a block; one that is spelled as in its file is compared without regard to dots."""
    if module.startswith(_KNOWN):
        return module == block or module.startswith(f"{block}.")
    part, _, path = place_of(module).partition(".")
    wanted, _, begin = block.partition(".")
    if part != ("transformer" if wanted == "unet" else wanted):
        return False
    return not begin or f"{path}.".replace(".", "_").startswith(f"{begin}.".replace(".", "_"))


def factor_of(module: str, weights: Mapping[str, float]) -> float:
    """The weight of the longest part or block that a module is in; 1 where it is in none."""
    hits = [block for block in weights if within(module, block)]
    return weights[max(hits, key=len)] if hits else 1.0


@cache
def _transformer_blocks() -> frozenset[str]:
    """What transformers without tables call their repeated blocks, in either spelling."""
    from lorakit.architectures import ARCHITECTURES

    names = (name for one in ARCHITECTURES.values() for rule in one.rules for name in (rule.original, *rule.parts))
    return frozenset(name.partition(".*")[0] for name in names if ".*" in name)


def _of_transformer(block: str) -> bool:
    return any(block == name or block.startswith(f"{name}.") for name in _transformer_blocks())
