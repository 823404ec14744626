"""Options made from the fields of a config: type, default, help, bounds and spelling are written at the field alone."""

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import typer

from lorakit.fields import Declared, Flags, Metavar, declared

Config = TypeVar("Config")


def options_of(config: type) -> list[inspect.Parameter]:
    """A keyword option for each field of a config class that has a help text."""
    return [_option(field) for field in declared(config).values()]


def _option(field: Declared) -> inspect.Parameter:
    kind = field.kind | None if field.many else field.kind
    spelled, metavar = field.mark(Flags), field.mark(Metavar)
    # A flag that is not spelled out gets a --no- form of Typer's own.
    names = field.flags if spelled else ()
    made = typer.Option(*names, help=field.told, metavar=metavar.text if metavar else None)
    annotation = Annotated[kind, made, *field.marks]  # type: ignore[valid-type]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=field.default)


def config_of(config: type[Config], values: Mapping[str, Any]) -> Config:
    """The config that options give; lists that nobody gave are empty. UsageError as the config's own checks have it."""
    known = declared(config)
    own = {name: values[name] for name in known if name in values}
    return config(**{name: [] if value is None and known[name].many else value for name, value in own.items()})


def signed(function: Any, *configs: type) -> Any:
    """The command's function with the configs' options in the place of its `**options`, for Typer to read."""
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    own = [p.replace(kind=p.KEYWORD_ONLY) if i else p for i, p in enumerate(own)]
    more = [parameter for config in configs for parameter in options_of(config)]
    function.__signature__ = inspect.Signature([*own, *more])
    return function
