"""Compositions from the command line, and their adapters put beside a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lorakit.composition import Composition, Member, curve
from lorakit.composition.module_weights import block_name, number, pairs, which
from lorakit.errors import UsageError, faults_together
from lorakit.formats import recipes
from lorakit.io.inputs import existing_file
from lorakit.io.paths import check_adapters, is_recipe, split
from lorakit.patterns import Pattern
from lorakit.registry import nearest

Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class MemberChanges:
    """What options say of a composition's adapters, each `NAME=...`; NAME is the adapter's name, file or number. Schedules
    and blocks without a name are every adapter's."""

    schedules: Sequence[str] = ()
    blocks: Sequence[str] = ()
    layers: Sequence[str] = ()
    parts: Sequence[str] = ()
    regions: Sequence[str] = ()
    prompts: Sequence[str] = ()
    switch: str | None = None
    composite: bool = False


def read(arguments: Sequence[str], changes: MemberChanges | None = None) -> Composition:
    """One composition of adapter files and recipes, changed by options. Ways other than the sum are one recipe's, and
    the other adapters act beside it all the time."""
    check_adapters(arguments)
    members: list[Member] = []
    ways: list[Composition] = []
    given = list(map(split, arguments))
    read = faults_together(lambda one: recipes.read(Path(one[0])) if is_recipe(one[0]) else None, given)
    for (path, weight), recipe in zip(given, read, strict=True):
        if recipe is None:
            members.append(Member(path=Path(path), weight=weight, name=Path(path).stem, free=True))
            continue
        recipe = recipe.scaled(weight)
        free = recipe.way == "sum"
        ways += [] if free else [recipe]
        members += [replace(member, free=free) for member in recipe.members]
    if len(ways) > 1:
        raise UsageError(f"one recipe that is a {ways[0].way} or a {ways[1].way} at a time; merge or bake the others")
    way, settings = (ways[0].way, ways[0].settings) if ways else ("sum", {})
    return changed(Composition(named(members), way, settings), changes or MemberChanges())


def named(members: Sequence[Member]) -> tuple[Member, ...]:
    """Each with a name of its own: a second `dog` is `dog-2`."""
    taken: set[str] = set()
    found = []
    for member in members:
        name, count = member.name, 2
        while name in taken:
            name, count = f"{member.name}-{count}", count + 1
        taken.add(name)
        found.append(replace(member, name=name))
    return tuple(found)


def changed(composition: Composition, changes: MemberChanges) -> Composition:
    members = list(composition.members)
    each = partial(_each, members)
    each(changes.schedules, "--schedule", lambda m, text: replace(m, curve=curve.read(text)), all_of=True)
    each(
        changes.blocks, "--block-weights", lambda m, text: replace(m, blocks={**m.blocks, **_blocks(text)}), all_of=True
    )
    each(changes.layers, "--layer-weights", lambda m, text: replace(m, layers=(_layer(text), *m.layers)))
    each(changes.regions, "--region", _with_region)
    each(changes.prompts, "--words", lambda m, text: replace(m, prompt=text))
    for text in changes.parts:
        _parts(members, text)
    if changes.switch is not None and changes.composite:
        raise UsageError("--switch and --composite are two ways to compose; give one")
    way, settings = composition.way, dict(composition.settings)
    if changes.switch is not None:
        way, settings = "switch", _switch(changes.switch)
    if changes.composite:
        way, settings = "composite", {}
    if way != composition.way:
        members = [replace(member, free=False) for member in members]
    way, settings = recipes.checked_way(way, settings)
    return Composition(tuple(members), way, settings)


def _each(
    members: list[Member],
    texts: Iterable[str],
    option: str,
    change: Callable[[Member, str], Member],
    all_of: bool = False,
) -> None:
    """Change the member that each text names; with `all_of` one without a name changes every member."""
    for text in texts:
        who, equals, rest = text.partition("=")
        if all_of and (not equals or _is_block(who)):
            chosen, rest = list(range(len(members))), text
        elif equals:
            chosen = [_which(who, members, f"{option} {text}")]
        else:
            raise UsageError(f"{option} {text}: expected NAME=...")
        try:
            for at in chosen:
                members[at] = change(members[at], rest)
        except ValueError as error:
            raise UsageError(f"{option} {text}: {error}") from None


def _which(who: str, members: Sequence[Member], option: str) -> int:
    if not members:
        raise UsageError(f"{option}: there is no adapter to change; give one with --lora or --recipe")
    names = [member.name for member in members]
    if who in names:
        return names.index(who)
    return which(who, [member.path for member in members], option)


def _is_block(name: str) -> bool:
    try:
        return bool(block_name(name))
    except ValueError:
        return False


def _blocks(text: str) -> dict[str, float]:
    if "=" not in text:
        return recipes.blocks_of(text)
    return recipes.blocks_of(pairs(text, "--block-weights"))


def _layer(text: str) -> tuple[Pattern, float]:
    pattern, equals, weight = text.rpartition("=")
    if not equals:
        raise ValueError("expected NAME=REGEX=WEIGHT")
    return recipes.layers_of({pattern: number(weight, "--layer-weights")}, "--layer-weights", UsageError)[0]


def _with_region(member: Member, text: str) -> Member:
    path, feather = split(text)
    region = existing_file(path, f"picture of --region {member.name}=")
    return replace(member, region=region, feather=feather if path != text else 0.0)


def _parts(members: list[Member], text: str) -> None:
    """`NAME=unet=0.5,...`, or `unet=0.5,...` for every adapter."""
    head, _, rest = text.partition("=")
    own = "=" in rest.partition(",")[0]
    chosen = [_which(head, members, f"--part-weights {text}")] if own else range(len(members))
    try:
        parts = recipes.parts_of(pairs(rest if own else text, f"--part-weights {text}"))
    except ValueError as error:
        raise UsageError(f"--part-weights {text}: {error}") from None
    for i in chosen:
        members[i] = replace(members[i], parts={**members[i].parts, **parts})


def _switch(text: str) -> dict[str, float]:
    key, colon, value = text.partition(":")
    if key != "every" or not colon:
        raise UsageError(f"--switch {text}: expected every:N, such as every:1")
    return {"every": number(value, f"--switch {text}")}


def changes_adapters(key: str) -> bool:
    """Whether an axis of a grid or an option of a line changes how an adapter acts."""
    return key.rpartition(".")[2] in ("weight", "schedule")


def with_setting(composition: Composition, key: str, value: str, where: str) -> Composition:
    """Adapters with another weight or schedule: `lora.weight`, `weight` is every adapter's, `NAME.weight` one's."""
    if key.endswith("weight"):
        changes: dict[str, Any] = {"weight": number(value, where)}
    else:
        changes = {"curve": _curve(value, where)}
    name = key.rpartition(".")[0]
    members = composition.members
    names = [member.name for member in members]
    if not members:
        raise UsageError(f"{where}: there is no adapter; give one with --lora")
    if name and name != "lora" and name not in names:
        raise UsageError(f"{where}: no adapter '{name}'{nearest(name, names)} (there are: {', '.join(names)})")
    every = name in ("", "lora") and name not in names
    changed = tuple(replace(m, **changes) if every or m.name == name else m for m in members)
    return replace(composition, members=changed)


def _curve(text: str, where: str) -> curve.Curve:
    try:
        return curve.read(text)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
