"""Programs that read adapter files, one module each: what each applies rightly, and what not, and why.

The rules are facts found by running or reading the programs (named in each module), kept as data:
    VERSION     what the rules were found on
    READS       formats that it reads at all
    KINDS       kinds of delta it does not apply exactly -> why
    NAMES       (pattern over "format module key", why): modules it drops or spoils, searched in turn
    spoiled(adapter)    optional: module -> why, for rules that need more than one module's name
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lorakit.adapter import Adapter
from lorakit.formats.evidence import stranger
from lorakit.registry import CLIENTS

_DEAF = "does not read"


@dataclass(frozen=True)
class Coverage:
    """What a client makes of an adapter file: how many of its modules it applies exactly, and why not the others."""

    client: str
    expected: int
    wrong: dict[str, str]

    @property
    def right(self) -> int:
        return self.expected - len(self.wrong)

    def reasons(self) -> dict[str, list[str]]:
        """Why -> the modules it befalls."""
        by_reason: dict[str, list[str]] = {}
        for module, why in self.wrong.items():
            by_reason.setdefault(why, []).append(module)
        return by_reason


def coverage(adapter: Adapter, client: str) -> Coverage:
    """The rules of one client over all modules of an adapter as its file spells them."""
    rules = CLIENTS[client]
    modules = sorted({*adapter.modules, *adapter.biases})
    if adapter.format not in rules.READS:
        return Coverage(client, len(modules), dict.fromkeys(modules, f"{_DEAF} {adapter.format} files"))
    wrong = dict(rules.spoiled(adapter)) if hasattr(rules, "spoiled") else {}
    for module in modules:
        kind = adapter.modules[module].kind if module in adapter.modules else "bias"
        if module not in wrong and (why := _why(rules, adapter, module, kind)):
            wrong[module] = why
    return Coverage(client, len(modules), wrong)


def _why(rules: object, adapter: Adapter, module: str, kind: str) -> str:
    if kind in rules.KINDS:  # type: ignore[attr-defined]
        return rules.KINDS[kind]  # type: ignore[attr-defined]
    text = f"{adapter.format} {module} {adapter.keys.get(module, module)}"
    return next((why for pattern, why in rules.NAMES if re.search(pattern, text)), "")  # type: ignore[attr-defined]


def coverages(adapter: Adapter) -> list[Coverage]:
    """Of every client; of none for architectures without tables, of which it is not known."""
    if any(stranger(name) is not None for name in adapter.modules):
        return []
    return [coverage(adapter, name) for name in CLIENTS.names()]


def lines(found: Sequence[Coverage]) -> list[str]:
    """What each client makes of a file, for people: those that apply all of it, those that apply some, those that read no
    such file."""
    asked = [one for one in found if one.expected]
    whole = [one.client for one in asked if not one.wrong]
    deaf = [one.client for one in asked if set(one.reasons()) and all(why.startswith(_DEAF) for why in one.reasons())]
    told = [f"{', '.join(whole)}: all {asked[0].expected} modules right"] if whole else []
    for one in asked:
        if one.client not in (*whole, *deaf):
            why = "; ".join(f"{len(modules)} {reason}" for reason, modules in list(one.reasons().items())[:3])
            told.append(f"{one.client}: {one.right} of {one.expected} modules right ({why})")
    verb = _DEAF if len(deaf) == 1 else _DEAF.replace("does", "do")
    return told + ([f"{', '.join(deaf)}: {verb} this format"] if deaf else [])


def output_axis(adapter: Adapter) -> list[str]:
    """DoRA modules whose magnitude is per output row."""
    return [name for name, delta in adapter.modules.items() if getattr(delta, "axis", None) == 0]
