"""Settings that stand outside the command line: tables of a TOML file and LORAKIT_<COMMAND>_<OPTION>, strictly read.

All commands' settings are checked, whichever command runs, for a misspelt one is silent in the run that it was meant
for. `Parameter` is Typer's object of an option or argument.
"""

from __future__ import annotations

import datetime
import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import typer

from lorakit.errors import UsageError, all_of
from lorakit.registry import nearest

Parameter = Any
PREFIX = "LORAKIT_"
_FLAG_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_MOST = 2**63  # whole numbers are below it: what torch and numpy hold
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "boolean": ((bool,), "true or false"),
    "str": ((str,), "text"),
}
# Options of one call, which no configuration sets.
_OF_THE_CALL = {"help", "config_file", "settings", "print_config", "dry_run", "debug"}


def long_name(parameter: Parameter) -> str:
    """Returns the name of an option without its dashes, which is its key in files; that of an argument is its own."""
    return next((name[2:] for name in parameter.opts if name.startswith("--")), str(parameter.name))


def keys_of(parameters: Iterable[Parameter]) -> dict[str, Parameter]:
    """Returns the options and arguments that a configuration may set, by key."""
    return {long_name(parameter): parameter for parameter in parameters if parameter.name not in _OF_THE_CALL}


def unknown(key: str, command: str, parameters: Iterable[Parameter]) -> str:
    """Returns the complaint about a key that a command's configuration does not have."""
    parameters = [*parameters]
    if key in {long_name(parameter) for parameter in parameters}:
        return f"--{key} is said on the command line alone"
    return f"no option '{key}' in {command}{nearest(key, keys_of(parameters))}"


def environment_name(command: str, key: str) -> str:
    """Returns the variable that sets an option."""
    return f"{PREFIX}{command}_{key}".replace("-", "_").upper()


def flag(text: str) -> bool:
    """Returns what a word says of a flag; ValueError, with what was expected, where it says neither yes nor no."""
    try:
        return _FLAG_WORDS[text.strip().lower()]
    except KeyError:
        raise ValueError(f"expected true or false, got {told(text)}") from None


def told(value: Any) -> str:
    """Returns a short description of a value that was read, as TOML spells it, for the end of an error."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, datetime.date | datetime.time):
        return f"a date or time, {value.isoformat()}"
    if isinstance(value, int) and abs(value) >= _MOST:
        return f"a number of {value.bit_length()} bits"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def complaint(parameter: Parameter, value: Any) -> str | None:
    """Returns what is wrong with a typed value for an option: its type, its size or its range; None where it is right."""
    if not (parameter.multiple or parameter.nargs == -1):
        return _one(parameter, value)
    if not isinstance(value, list | tuple):
        return f"expected a list of {_expected(parameter)}, got {told(value)}"
    for number, item in enumerate(value, 1):
        wrong = _one(parameter, item)
        if wrong:
            return f"item {number}: {wrong}"
    return None


def _one(parameter: Parameter, value: Any) -> str | None:
    kind = _kind(parameter)
    # `size = 512` and `rank = 32` are right where the option takes a number among other words.
    written = kind == "str" and type(value) is int and "N" in (parameter.metavar or "").split("|")
    if type(value) not in _KINDS[kind][0] and not written:
        return f"expected {_expected(parameter)}, got {told(value)}"
    if isinstance(value, int) and abs(value) >= _MOST:
        return f"expected a number below 2^63, got {told(value)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"expected a finite number, got {value}"
    try:
        parameter.type(value, parameter, None)
    except typer.BadParameter as error:
        return str(error.message).rstrip(".")
    return None


def _kind(parameter: Parameter) -> str:
    return str(parameter.type.name.removesuffix(" range"))


def _expected(parameter: Parameter) -> str:
    return _KINDS[_kind(parameter)][1]


def _text_complaint(parameter: Parameter, text: str) -> str | None:
    """Returns what is wrong with the text of a variable."""
    kind = _kind(parameter)
    if kind == "boolean":
        try:
            flag(text)
        except ValueError as error:
            return str(error)
        return None
    many = parameter.multiple or parameter.nargs == -1
    read = {"int": int, "float": float}.get(kind, str)
    try:
        values = [read(part) for part in (text.split() if many else [text])]
    except ValueError:
        return f"expected {_expected(parameter)}, got {told(text)}"
    return complaint(parameter, values if many else values[0])


def file_faults(document: Any, commands: Mapping[str, Sequence[Parameter]], running: str, named: bool) -> list[str]:
    """Returns every fault of a TOML file's tables, a line each: unknown tables and keys, and values of a wrong type.

    running   the command whose table a key outside of a table was probably meant for
    named     whether the user named the file; one that was found may not say that outputs are overwritten
    """
    faults: list[str] = []
    for table, content in document.tables.items():
        place = document.place(table)
        if table in commands:
            if isinstance(content, dict):
                faults += _table_faults(document, table, content, commands[table], named)
            else:
                faults.append(f"{place}: '{table}' must be a table of options, [{table}], got {told(content)}")
        elif isinstance(content, dict):
            faults.append(f"{place}: no command has the table [{table}]{nearest(table, commands)}")
        else:
            own = keys_of(commands[running])
            where = f"; write it below [{running}]" if table in own else nearest(table, own)
            faults.append(f"{place}: '{table}' stands outside of a table{where}")
    return faults


def _table_faults(
    document: Any, command: str, table: Mapping[str, Any], parameters: Sequence[Parameter], named: bool
) -> Iterator[str]:
    known = keys_of(parameters)
    for key, value in table.items():
        place = document.place(command, key)
        if key not in known:
            yield f"{place}: {unknown(key, command, parameters)}"
        elif wrong := complaint(known[key], value):
            yield f"{place}: {key}: {wrong}"
        elif known[key].name == "force" and value and not named:
            yield f"{place}: a file that was not named may not set force; say --force or --config {document.file}"


def environment_faults(environment: Mapping[str, str], commands: Mapping[str, Sequence[Parameter]]) -> list[str]:
    """Returns every fault of the variables that set options, a line each: unknown names and values of a wrong type.

    An empty variable is as one that is not set. Variables that are not like a command's are no settings.
    """
    known = {
        environment_name(command, long_name(parameter)): parameter
        for command, parameters in commands.items()
        for parameter in parameters
        if parameter.name != "settings"  # --set sets options of the call that it stands in
    }
    faults: list[str] = []
    for name in sorted(name for name in environment if name.startswith(PREFIX)):
        if name in known:
            wrong = _text_complaint(known[name], environment[name]) if environment[name] else None
            faults += [f"{name}: {wrong}"] if wrong else []
        elif _is_meant(name.upper(), known, commands):
            faults.append(f"{name} sets no option{nearest(name.upper(), known)}")
    return faults


def _is_meant(name: str, known: Iterable[str], commands: Iterable[str]) -> bool:
    """Whether a variable is a command's, or is spelled nearly as one."""
    words = name.removeprefix(PREFIX).split("_")
    heads = ["-".join(words[:n]).lower() for n in range(1, len(words))]
    close = [*commands]
    return any(difflib.get_close_matches(head, close, n=1, cutoff=0.8) for head in heads) or bool(
        difflib.get_close_matches(name, known, n=1, cutoff=0.9)
    )


def refuse(faults: Sequence[str]) -> None:
    """Raises UsageError with all faults; none are fine."""
    if faults:
        raise UsageError(all_of(faults))
