"""The grammar that all commands share: common options, configuration files, `--set`, `--print-config`.

An option's value comes from the command line, else `LORAKIT_<COMMAND>_<OPTION>`, else the configuration file, else its
default; the order is Typer's own once the file's table stands in the context's `default_map`.
"""

import inspect
import json
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from lorakit.errors import UsageError
from lorakit.registry import nearest

COMMON: dict[str, Any] = {
    "json_output": Annotated[bool, typer.Option("--json", help="Print one JSON object instead of paths.")],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")],
    "debug": Annotated[bool, typer.Option("--debug", help="Show tracebacks.")],
    "force": Annotated[bool, typer.Option("--force", "-f", help="Overwrite outputs that exist.")],
    "dry_run": Annotated[bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")],
    "config_file": Annotated[str | None, typer.Option("--config", metavar="FILE", help="TOML, one table a command.")],
    "settings": Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any option by name.")],
    "print_config": Annotated[bool, typer.Option("--print-config", help="Print the resolved options as TOML.")],
}
COMPUTE: dict[str, Any] = {
    "device": Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]|mps", help="Where to compute.")],
    "dtype": Annotated[str, typer.Option(metavar="auto|float32|bfloat16|float16", help="Arithmetic.")],
}
_DEFAULTS: dict[str, Any] = {"config_file": None, "settings": None, "device": "auto", "dtype": "auto"}
_METAVARS = {"int": "N", "int range": "N", "float": "X", "float range": "X", "str": "TEXT"}
# Options that say how to run and not what to make: no part of a configuration.
_NOT_CONFIG = {"help", "config_file", "settings", "print_config", "dry_run", "debug"}


@dataclass(frozen=True)
class Manner:
    """How a command talks and writes, common to all."""

    json_output: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    force: bool = False
    dry_run: bool = False


def _read_table(file: str, command: str) -> dict[str, Any]:
    path = Path(file)
    if _is_made(file):
        values = {**_recorded(path, "config"), **_recorded(path, "options")}
        return {name.replace("_", "-"): value for name, value in values.items() if value is not None}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {file}: not TOML: {error}") from error
    table = tables.get(command, {})
    if not isinstance(table, dict):
        raise UsageError(f"--config {file}: '{command}' must be a table of options")
    return table


def _recorded(path: Path, what: str) -> dict[str, Any]:
    """What an adapter or a model folder says of the run that made it: its `config`, the `sources` of that, or other
    `options`."""
    notes = path / "lorakit.json"
    try:
        if path.is_dir():
            metadata = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() else {}
        else:
            from lorakit.io.safetensors import open_file

            metadata = open_file(path, "adapter").metadata
        return dict(
            json.loads(metadata[f"lorakit.{what}"] if what == "config" else metadata.get(f"lorakit.{what}", "{}"))
        )
    except (KeyError, ValueError) as error:
        raise UsageError(f"--config {path}: no config in its metadata; it was not trained by lorakit") from error


def _is_made(file: str | None) -> bool:
    """Whether a configuration is what `train` has made, and not one that was written for it."""
    return file is not None and (Path(file).suffix == ".safetensors" or Path(file).is_dir())


_SOURCES = {"COMMANDLINE": "option", "ENVIRONMENT": "environment", "DEFAULT_MAP": "file"}


def sources(ctx: Any) -> dict[str, str]:
    """Where each option's value came from: option, environment, file or default. A value out of an adapter comes from
    where that run had it from, so that running it again gives the same."""
    file = ctx.meta.get("lorakit.config_file")
    recorded = _recorded(Path(file), "sources") if _is_made(file) else {}
    found = {}
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name)
        said = _SOURCES.get(getattr(source, "name", ""), "default")
        found[parameter.name] = recorded.get(parameter.name, said) if said == "file" else said
    return found


class Command(TyperCommand):
    """A command that reads its configuration before its options, and can print it."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        for parameter in self.params:
            # Each option can come from the environment; saying so at each would bury what it does.
            parameter.show_envvar = False  # type: ignore[attr-defined]
            if parameter.param_type_name == "option" and parameter.metavar is None:
                parameter.metavar = _METAVARS.get(parameter.type.name)

    def _long_names(self) -> dict[str, Any]:
        return {
            option.removeprefix("--"): parameter
            for parameter in self.params
            for option in parameter.opts
            if option.startswith("--") or parameter.param_type_name == "argument"
        }

    def _known(self, keys: Iterable[str], where: str) -> dict[str, Any]:
        names = {key: p for key, p in self._long_names().items() if p.name not in _NOT_CONFIG}
        wrong = [key for key in keys if key not in names]
        if wrong:
            known = [*names]
            raise UsageError(
                f"{where}: " + "; ".join(f"no option '{key}' in {self.name}{nearest(key, known)}" for key in wrong)
            )
        return names

    def _expand_settings(self, args: list[str]) -> list[str]:
        """`--set rank=4` read as `--rank 4`, so that it is checked like any option and the last one wins."""
        out: list[str] = []
        i = 0
        while i < len(args):
            if args[i] == "--":
                return out + args[i:]
            pair = args[i].removeprefix("--set=") if args[i].startswith("--set=") else None
            if args[i] == "--set":
                i += 1
                pair = args[i] if i < len(args) else ""
            i += 1
            if pair is None:
                out.append(args[i - 1])
                continue
            key, equals, value = pair.partition("=")
            if not equals:
                raise UsageError(f"--set {pair}: expected KEY=VALUE")
            parameter = self._known([key], "--set")[key]
            if not getattr(parameter, "is_flag", False):
                out.append(f"--{key}={value}")
            elif value.lower() in ("true", "1", "yes", "on"):
                out.append(f"--{key}")
            elif parameter.secondary_opts:
                out.append(parameter.secondary_opts[0])
        return out

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        self.name = info_name or self.name
        args = self._expand_settings(args)
        file = os.environ.get(f"LORAKIT_{str(self.name).upper().replace('-', '_')}_CONFIG")
        for i, argument in enumerate(args):
            if argument == "--":
                break
            if argument == "--config" and i + 1 < len(args):
                file = args[i + 1]
            elif argument.startswith("--config="):
                file = argument.removeprefix("--config=")
        if file is None and Path("lorakit.toml").is_file():
            file = "lorakit.toml"
        if file is not None:
            table = _read_table(file, str(self.name))
            names = self._known(table, f"--config {file}")
            extra["default_map"] = {names[key].name: value for key, value in table.items()}
        context = super().make_context(info_name, args, parent, **extra)
        context.meta["lorakit.config_file"] = file
        return context

    def invoke(self, ctx: Any) -> Any:
        if ctx.params.get("print_config"):
            typer.echo(self.resolved(ctx), nl=False)
            return None
        return super().invoke(ctx)

    def chosen(self, values: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
        """What the command takes for options that were left open: name to (value, what it follows from)."""
        return {}

    def resolved(self, ctx: Any) -> str:
        """TOML that runs the same job again; what follows from other options is told on stderr, for a file that is made
        of this one prints the same."""
        lines, chosen = [f"[{self.name}]"], self.chosen(ctx.params)
        if not ctx.params.get("quiet"):
            for source in dict.fromkeys(source for _, source in chosen.values()):
                told = (f"{n.replace('_', '-')} = {v:g}" for n, (v, of) in chosen.items() if of == source)
                typer.echo(f"from the {source}: {', '.join(told)}", err=True)
        values = {**ctx.params, **{name: value for name, (value, _) in chosen.items()}}
        for parameter in self.params:
            value = values.get(parameter.name)
            if parameter.name in _NOT_CONFIG or value is None or value in ([], ()):
                continue
            key = next((o.removeprefix("--") for o in parameter.opts if o.startswith("--")), parameter.name)
            value = list(value) if isinstance(value, tuple) else value
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False, default=str)}")
        return "\n".join(lines) + "\n"


def command(
    app: typer.Typer, name: str, *, compute: bool = False, cls: type[Command] = Command
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function under `name`. It gets a `Manner` first, and `device` and `dtype` where it computes."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        common = {**COMMON, **(COMPUTE if compute else {})}

        def run(**options: Any) -> None:
            from lorakit.cli import output

            manner = Manner(**{key: options.pop(key) for key in Manner.__dataclass_fields__})
            for key in ("config_file", "settings", "print_config"):
                options.pop(key)
            output.begin(name, manner)
            function(manner, **options)

        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.name not in common]
        shared = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=_DEFAULTS.get(key, False))
            for key, kind in common.items()
        ]
        run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in [*own, *shared]}
        run.__doc__ = function.__doc__
        app.command(name, cls=cls)(run)
        return function

    return register
