"""The grammar that all commands share: common options, configuration files, `--set`, `--print-config`.

An option's value comes from the command line, else `LORAKIT_<COMMAND>_<OPTION>`, else the configuration file, else its
default; the order is Typer's own once the file's table stands in the context's `default_map`.
"""

import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from lorakit.cli import recorded, settings
from lorakit.cli.manner import Manner
from lorakit.config import Recorded
from lorakit.dtypes import FLOATS
from lorakit.errors import InputError, UsageError
from lorakit.runtime.world import speaks

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
    "dtype": Annotated[str, typer.Option(metavar="|".join(["auto", *FLOATS]), help="Arithmetic."), Recorded.ANY],
}
_DEFAULTS: dict[str, Any] = {"config_file": None, "settings": None, "device": "auto", "dtype": "auto"}
_METAVARS = {"int": "N", "int range": "N", "float": "X", "float range": "X", "str": "TEXT"}
_FOUND = "lorakit.toml"  # read where no --config names another
_NOTES, _DOCUMENT = "lorakit.notes", "lorakit.document"


_SOURCES = {"COMMANDLINE": "option", "ENVIRONMENT": "environment", "DEFAULT_MAP": "file"}


def source(ctx: Any, name: str) -> str:
    """Returns where an option's value came from: option, environment, file or default."""
    return _SOURCES.get(getattr(ctx.get_parameter_source(name), "name", ""), "default")


class Command(TyperCommand):
    """A command that reads its configuration before its options, and can print it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for parameter in self.params:
            parameter.envvar = settings.environment_name(str(self.name), settings.long_name(parameter))
            # Each option can come from the environment; saying so at each would bury what it does.
            parameter.show_envvar = False  # type: ignore[attr-defined]
            if parameter.param_type_name == "option" and parameter.metavar is None:
                parameter.metavar = _METAVARS.get(parameter.type.name)

    def _expand_settings(self, args: list[str]) -> tuple[list[str], set[str]]:
        """`--set rank=4` read as `--rank 4`, so that it is checked like any option and the last one wins; and the names
        of flags that are set to false and have no option to say so."""
        out: list[str] = []
        flags: dict[str, bool] = {}
        faults: list[str] = []
        options = [parameter for parameter in self.params if parameter.param_type_name == "option"]
        known, rest = settings.keys_of(options), iter(args)
        for argument in rest:
            if argument == "--":
                out += [argument, *rest]
            elif argument != "--set" and not argument.startswith("--set="):
                out.append(argument)
            else:
                pair = next(rest, "") if argument == "--set" else argument.removeprefix("--set=")
                key, equals, value = pair.partition("=")
                try:
                    if not equals:
                        raise ValueError("expected KEY=VALUE")
                    if key not in known:
                        raise ValueError(settings.unknown(key, str(self.name), options))
                    if not known[key].is_flag:
                        out.append(f"--{key}={value}")
                    elif known[key].secondary_opts:
                        out.append(f"--{key}" if settings.flag(value) else known[key].secondary_opts[0])
                    else:
                        flags[key] = settings.flag(value)
                except ValueError as error:
                    faults.append(f"--set {pair}: {error}")
        settings.refuse(faults)
        return [*(f"--{key}" for key, on in flags.items() if on), *out], {known[k].name for k in flags if not flags[k]}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args, off = self._expand_settings(args)
        given: dict[str, Any] = self.make_parser(ctx).parse_args(args=[*args])[0]
        if given.get("help") or ctx.resilient_parsing:  # neither help nor completion needs settings
            return super().parse_args(ctx, args)
        both = [settings.long_name(p) for p in self.params if p.name in off and given.get(p.name)]
        settings.refuse([f"--{key} and --set {key}=false contradict each other" for key in both])
        self._read_settings(ctx, given.get("config_file"))
        rest = super().parse_args(ctx, args)
        for name in off:
            ctx.params[name] = False
            ctx.set_parameter_source(name, type(ctx.get_parameter_source(name)).COMMANDLINE)
        values = [(p, ctx.params[p.name]) for p in self.params if ctx.params.get(p.name) is not None]
        wrong = [(p, complaint) for p, value in values if (complaint := settings.complaint(p, value))]
        settings.refuse([f"--{settings.long_name(p)}: {complaint}" for p, complaint in wrong])
        return rest

    def _read_settings(self, ctx: Any, file: str | None) -> None:
        """Checks the environment and the configuration file, all faults at once, and makes the file's values those that
        options take where nobody says otherwise."""
        name, own = str(self.name), settings.keys_of(self.params)
        commands: dict[str, Any] = ctx.parent.command.commands if ctx.parent else {name: self}
        parameters = {name: command.params for name, command in commands.items()}
        faults = settings.environment_faults(os.environ, parameters)
        for key in own:
            variable, bare = settings.environment_name(name, key), f"{settings.PREFIX}{key.replace('-', '_').upper()}"
            if bare in os.environ:
                self.note(ctx, f"{bare} sets nothing; {variable} does")
        if file is None:
            file = os.environ.get(settings.environment_name(name, "config")) or None
        named = file is not None
        if file is None and Path(_FOUND).is_file():
            file = _FOUND
        if file is not None and recorded.is_recorded(Path(file)):
            settings.refuse(faults)
            ctx.default_map = self.read_recorded(ctx, Path(file))
            return
        table: dict[str, Any] = {}
        if file is not None:
            from lorakit.io import toml

            try:
                document = toml.read(file, "configuration")
            except InputError as error:
                raise UsageError(f"--config {error}" if named else str(error)) from error
            ctx.meta[_DOCUMENT] = document
            faults += settings.file_faults(document, parameters, name, named)
            table = document.tables.get(name, {})
        settings.refuse(faults)
        ctx.default_map = {own[key].name: value for key, value in table.items()}
        if table and not named:
            changed = [key for key, value in table.items() if value != own[key].default]
            self.note(ctx, f"settings taken from ./{_FOUND}: {', '.join(changed) or 'the defaults'}")

    def note(self, ctx: Any, text: str) -> None:
        """Keeps a line for people until it is known whether they want any."""
        ctx.meta.setdefault(_NOTES, []).append(text)

    def read_recorded(self, ctx: Any, file: Path) -> dict[str, Any]:
        """Values by option that the metadata of an adapter or a model gives; a command that trains nothing takes none."""
        raise UsageError(f"--config {file} records a run of train; {self.name} takes a TOML file")

    def invoke(self, ctx: Any) -> Any:
        from lorakit.cli import output

        manner = Manner(**{key: ctx.params[key] for key in Manner.__dataclass_fields__})
        # A file that sets `quiet` does not silence what is said of the file.
        output.begin(str(self.name), replace(manner, quiet=manner.quiet and source(ctx, "quiet") != "file"))
        for text in ctx.meta.get(_NOTES, ()) if speaks() else ():
            output.note(text)
        output.begin(str(self.name), manner)
        try:
            if ctx.params.get("print_config"):
                typer.echo(self.resolved(ctx), nl=False)
                return None
            return super().invoke(ctx)
        except UsageError as error:
            raise UsageError(f"{error}{self._origins(ctx, str(error))}") from error

    def _origins(self, ctx: Any, text: str) -> str:
        """Where the options that an error names were set, those that the command line does not say."""
        keys = settings.keys_of(self.params)
        told = []
        for key in dict.fromkeys(re.findall(r"--([a-z][a-z0-9-]*)", text)):
            where = source(ctx, keys[key].name) if key in keys else ""
            if where == "environment":
                told.append(settings.environment_name(str(self.name), key))
            elif where == "file":
                document = ctx.meta.get(_DOCUMENT)
                told.append(f"{document.place(self.name, key)}: {key}" if document else f"{key} in the --config")
        return f" (set by {'; '.join(told)})" if told else ""

    def chosen(self, values: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
        """What the command takes for options that were left open: name to (value, what it follows from)."""
        return {}

    def resolved(self, ctx: Any) -> str:
        """TOML that runs the same job again; what follows from other options is told on stderr, for a file that is made
        of this one prints the same."""
        from lorakit.cli import output
        from lorakit.io import toml

        lines, chosen = [f"[{self.name}]"], self.chosen(ctx.params)
        for source in dict.fromkeys(source for _, source in chosen.values()):
            told = (f"{n.replace('_', '-')} = {v:g}" for n, (v, of) in chosen.items() if of == source)
            output.note(f"from the {source}: {', '.join(told)}")
        values = {**ctx.params, **{name: value for name, (value, _) in chosen.items()}}
        for key, parameter in settings.keys_of(self.params).items():
            value = values.get(parameter.name)
            if value is None or value in ([], ()):
                continue
            value = list(value) if isinstance(value, tuple) else value
            lines.append(f"{key} = {toml.text_of(value)}")
        return "\n".join(lines) + "\n"


def command(
    app: typer.Typer, name: str, *, compute: bool = False, cls: type[Command] = Command
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function under `name`. It gets a `Manner` first, and `device` and `dtype` where it computes."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        common = {**COMMON, **(COMPUTE if compute else {})}

        def run(**options: Any) -> None:
            manner = Manner(**{key: options.pop(key) for key in Manner.__dataclass_fields__})
            for key in ("config_file", "settings", "print_config"):
                options.pop(key)
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
