"""The `lorakit` program. At module level only Typer and row 0, so that help answers at once."""

import os
import signal
import sys
import time
import traceback
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from lorakit import __version__
from lorakit.errors import LorakitError, Stopped, UsageError
from lorakit.registry import nearest
from lorakit.runtime.platform import ENDING
from lorakit.runtime.world import one_of_several, speaks


class _Group(TyperGroup):
    """Names the nearest command on a miss."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise UsageError(f"no command '{args[0]}'{nearest(args[0], self.commands)}; see lorakit --help")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Group,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"lorakit {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Personalise Stable Diffusion: prepare pictures, train, extract, merge, compose, draw."""


from lorakit.cli import compose, convert, demo, extract, inspect, merge, ppim, prior_gen, sample, train  # noqa: E402

for _module in (ppim, train, prior_gen, extract, merge, compose, sample, inspect, convert, demo):
    _module.register(app)


def _stop(number: int, frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    raise Stopped(number)


def _run(arguments: list[str]) -> int:
    from lorakit.cli import output

    try:
        code = get_command(app).main(arguments, prog_name="lorakit", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:  # the base of all that Typer says of a command line
        output.error(error.format_message())
        return 2
    except LorakitError as error:
        if "--debug" in arguments or os.environ.get("LORAKIT_DEBUG") == "1":
            traceback.print_exc()
        output.error(str(error))
        return error.exit_status
    except Stopped as stopped:
        output.error(str(stopped) or "stopped")
        return stopped.exit_status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:  # noqa: BLE001  the last stop: turn known kinds into sentences, show bugs
        return _last_stop(error, arguments)


def _last_stop(error: Exception, arguments: list[str]) -> int:
    from lorakit.cli import output

    debug = "--debug" in arguments or os.environ.get("LORAKIT_DEBUG") == "1"
    if debug:
        traceback.print_exc()
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        output.error("out of memory; try a smaller --batch-size or --size")
        return 7
    if isinstance(error, OSError):
        output.error(f"{error.filename or 'storage'}: {error.strerror or error}")
        return 5
    where = traceback.extract_tb(error.__traceback__)[-1]
    output.error(
        f"a bug in lorakit {__version__}: {type(error).__name__}: {error}\n"
        f"at {where.filename}:{where.lineno}; run again with --debug for the traceback,\n"
        "and please report it with the command at the project's issues"
    )
    return 1


def _leave_last(status: int) -> None:
    """A launcher ends all processes when one fails; the one that says why should have said it by then."""
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
    time.sleep(1 if status > 128 else 5)  # at a signal all have met before


def main() -> None:
    """Run the program and exit with its status."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    arguments = sys.argv[1:]
    status = _run(arguments or ["--help"])
    sys.stdout.flush()
    if not one_of_several():
        sys.exit(status)
    if status and not speaks():
        _leave_last(status)
    # All is written. What torch tears down of a run of several processes can abort, and would make of it a failure.
    sys.stderr.flush()
    os._exit(status)
