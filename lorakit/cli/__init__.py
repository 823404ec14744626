"""The `lorakit` program. At module level only Typer and row 0, so that help answers at once."""

import os
import signal
import sys
import time
import traceback
from functools import cache
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from lorakit import __version__
from lorakit.errors import LorakitError, ResourceError, Stopped, StorageError, UsageError, reason
from lorakit.registry import nearest
from lorakit.runtime.extras import broken_installation
from lorakit.runtime.platform import ENDING
from lorakit.runtime.scarce import FILES, THREADS, lacking
from lorakit.runtime.signals import written
from lorakit.runtime.world import one_of_several, speaks


class _CommandGroup(TyperGroup):
    """Names the nearest command on a miss."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise UsageError(f"no command '{args[0]}'{nearest(args[0], self.commands)}; see lorakit --help")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_CommandGroup,
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
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Personalise Stable Diffusion: prepare pictures, train, extract, merge, compose, draw."""


from lorakit.cli import compose, convert, demo, extract, inspect, merge, ppim, prior_gen, sample, train  # noqa: E402

for _module in (ppim, train, prior_gen, extract, merge, compose, sample, inspect, convert, demo):
    _module.register(app)


def _stop(number: int, frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    raise Stopped(number)


@cache
def _commands() -> Any:
    return get_command(app)


def _run(arguments: list[str]) -> int:
    from lorakit.cli import output

    try:
        code = _commands().main(arguments, prog_name="lorakit", standalone_mode=False)
        sys.stdout.flush()  # a full disk is told here, not when Python has ended
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:  # the base of all that Typer says of a command line
        output.error(error.format_message())
        return 2
    except Stopped as stopped:
        output.error(str(stopped) or f"stopped; {written([])}")
        return stopped.exit_status
    except Exception as error:  # noqa: BLE001  the last stop: turn known kinds into sentences, show bugs
        if "--debug" in arguments or os.environ.get("LORAKIT_DEBUG") == "1":
            traceback.print_exc()
        text, status = _told(error)
        output.error(text if _has_place() else f"{text}\n{_NO_PLACE}")
        return status


_NO_PLACE = "the folder that lorakit was started in is gone: go to one that is there (cd) and run it again"


def _has_place() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _told(error: Exception) -> tuple[str, int]:
    """An error as (what is said of it, exit status)."""
    if not isinstance(error, ResourceError) and (what := lacking(error)):
        return _remedy(what), ResourceError.exit_status
    if isinstance(error, LorakitError):
        return str(error), error.exit_status
    if broken := broken_installation(error):
        return str(broken), broken.exit_status
    if isinstance(error, OSError):
        return f"{error.filename or 'storage'}: {reason(error)}", StorageError.exit_status
    where = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"a bug in lorakit {__version__}: {type(error).__name__}: {' '.join(str(error).split())}\n"
        f"at {where.filename}:{where.lineno}; run again with --debug for the traceback,\n"
        "and please report it with the command at the project's issues"
    ), 1


def _remedy(lacking: str) -> str:
    """What can be done about it, as far as the command has options for it."""
    from lorakit.cli import output

    if lacking == FILES:
        return "more files are open at once than this shell allows; allow more with `ulimit -n 4096` and run it again"
    if lacking == THREADS:
        return "no more threads or processes can be started; end others, or allow more with `ulimit -u`"
    try:
        command = _commands().commands.get(output.running())
    except (MemoryError, SystemError):  # not even for that; Python may raise the latter for the former
        command = None
    options = {name for parameter in command.params for name in parameter.opts} if command else set()
    smaller = [name for name in ("--batch-size", "--size", "--workers") if name in options]
    remedies = [f"try a smaller {' or '.join(smaller)}"] if smaller else []
    return f"out of memory; {', or '.join([*remedies, 'end programs that run beside it'])}"


def _leave_last(status: int) -> None:
    """A launcher ends all processes when one fails; the one that says why should have said it by then."""
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
    time.sleep(1 if status > 128 else 5)  # at a signal all have met before


def main() -> None:
    """Run the program and exit with its status."""
    from lorakit.cli.streams import in_utf8, make_lasting

    in_utf8()
    make_lasting()
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    arguments = sys.argv[1:]
    status = _run(arguments or ["--help"])
    for number in ENDING:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL)  # all is said: what is only being taken down may end at once
    if not one_of_several():
        sys.exit(status)
    if status and not speaks():
        _leave_last(status)
    # All is written. What torch tears down of a run of several processes can abort, and would make of it a failure.
    sys.stderr.flush()
    os._exit(status)
