"""Programs that read adapter files, one module each: what each applies rightly, and what not, and why.

The rules are facts found by running or reading the programs (named in each module). They are of the keys of the file and
not of its format's name: every program has a map from the names it knows to its model's modules, and drops the others.
    VERSION     what the rules were found on
    KINDS       kinds of delta it does not apply exactly -> why
    unread(spelled, module, family)     why it does not take a key of a module, "" where it does; a reason that begins with
                                        "does not read" is one of a whole file's keys
    spoiled(adapter, family)            optional: module -> why, for rules that need more than one key
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from lorakit.adapter import Adapter
from lorakit.deltas.low_rank import LowRank
from lorakit.families import FAMILIES
from lorakit.formats.codec import ZERO_ALPHA
from lorakit.formats.evidence import family_of
from lorakit.registry import CLIENTS
from lorakit.spellings import Spelled, parse
from lorakit.targets import is_known

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
    return _coverage(adapter, client, family_of(adapter).family)


def _coverage(adapter: Adapter, client: str, family: str | None) -> Coverage:
    rules = CLIENTS[client]
    modules = sorted({*adapter.modules, *adapter.biases})
    wrong: dict[str, str] = {}
    for module in modules:
        if why := _unread(rules, adapter.spelled.get(module, ()), module, family):
            wrong[module] = why
        elif module in adapter.modules and adapter.modules[module].kind in rules.KINDS:
            wrong[module] = rules.KINDS[adapter.modules[module].kind]
        elif module in adapter.biases and "bias" in rules.KINDS:
            wrong[module] = rules.KINDS["bias"]
    if hasattr(rules, "spoiled"):
        wrong = {**rules.spoiled(adapter, family), **wrong}
    return Coverage(client, len(modules), wrong)


def _unread(rules: ModuleType, keys: Sequence[str], module: str, family: str | None) -> str:
    """Why a client does not take a module, "" where it takes it: of several spellings it needs to know one."""
    by_name: dict[str, str] = {}
    for key in map(parse, keys):
        by_name[key.stem] = by_name.get(key.stem, "") or rules.unread(key, module, family)
    return "" if "" in by_name.values() else next(iter(by_name.values()), "")


def coverages(adapter: Adapter) -> list[Coverage]:
    """Of every client; of none for architectures without tables, of which it is not known."""
    if not all(map(is_known, (*adapter.modules, *adapter.biases))):
        return []
    family = family_of(adapter).family
    return [_coverage(adapter, name, family) for name in CLIENTS.names()]


def lines(found: Sequence[Coverage]) -> list[str]:
    """What each client makes of a file, for people: those that apply all of it, those that apply some, those that read no
    such file."""
    asked = [one for one in found if one.expected]
    whole = [one.client for one in asked if not one.wrong]
    deaf = [one.client for one in asked if set(one.reasons()) and all(why.startswith(_DEAF) for why in one.reasons())]
    told = [f"{', '.join(whole)}: {_all(asked[0].expected)} right"] if whole else []
    for one in asked:
        if one.client not in (*whole, *deaf):
            why = "; ".join(f"{len(modules)} {reason}" for reason, modules in list(one.reasons().items())[:3])
            told.append(f"{one.client}: {one.right} of {_modules(one.expected)} right ({why})")
    verb = _DEAF if len(deaf) == 1 else _DEAF.replace("does", "do")
    return told + ([f"{', '.join(deaf)}: {verb} this format"] if deaf else [])


def _all(count: int) -> str:
    return f"all {count} modules" if count != 1 else "its one module"


def _modules(count: int) -> str:
    return f"{count} module{'s' if count != 1 else ''}"


def output_axis(adapter: Adapter) -> list[str]:
    """DoRA modules whose magnitude is per output row."""
    return [name for name, delta in adapter.modules.items() if getattr(delta, "axis", None) == 0]


def without_alpha(adapter: Adapter) -> list[str]:
    """Modules whose alpha is 0 in the file, which most programs multiply by."""
    return [name for name, _, what in (note.partition(": ") for note in adapter.notes) if what.startswith(ZERO_ALPHA)]


def without_kernel(adapter: Adapter) -> list[str]:
    """Convolutions whose up factor is a matrix, which the module of most programs does not take."""
    low = {name: getattr(delta, "inner", delta) for name, delta in adapter.modules.items()}
    return [name for name, one in low.items() if isinstance(one, LowRank) and one.down.ndim != one.up.ndim]


# What the maps of several clients are made of


def flat(path: str) -> str:
    return path.replace(".", "_")


@cache
def originals() -> dict[str, frozenset[str]]:
    """Path of a UNet module in diffusers' names to those in the original checkpoints' of all families."""
    found: dict[str, set[str]] = {}
    for family in FAMILIES.values():
        for ours, theirs in family.unet.original_names():
            found.setdefault(ours, set()).add(theirs)
    return {ours: frozenset(theirs) for ours, theirs in found.items()}


def named(spelled: Spelled) -> str:
    """The module's name in the key, as it stands there."""
    return spelled.key.removesuffix(spelled.ending).removesuffix(".")


def deaf(spelled: Spelled) -> str:
    """Why a client takes none of the keys that begin as this one does."""
    begin = spelled.prefix.text
    return f"{_DEAF} keys that begin with `{begin}`" if begin and not spelled.wrapped else f"{_DEAF} such names"


def deaf_to(ending: str) -> str:
    return f"{_DEAF} `.{ending.removeprefix('_lora.')}`"
