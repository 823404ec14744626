"""Packages that only some options need, and packages whose installation is broken."""

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from lorakit.errors import InputError, LorakitError, UnavailableError, UsageError, causes
from lorakit.runtime.scarce import lacking


def check(package: str, extra: str, why: str) -> None:
    """Raise what `need` would raise where the package is missing, without importing it: some write files when they are."""
    if importlib.util.find_spec(package) is None:
        raise _missing(package, extra, why)


def _missing(package: str, extra: str, why: str) -> UsageError:
    return UsageError(f"{why} needs {package}: pip install 'lorakit[{extra}]'")


def need(package: str, extra: str, why: str) -> ModuleType:
    """The package; UsageError with the line that installs it where it is missing. `why` is the option that asks."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as missing:
        if missing.name != package.partition(".")[0]:
            raise  # the package is there, and lacks one of its own
        raise _missing(package, extra, why) from None


@contextmanager
def faults_of_file(what: str) -> Iterator[None]:
    """Raise InputError, beginning with `what`, for all that a library raises over a file that is damaged or strange.

    UnavailableError where the library itself cannot be imported; a lack of memory or of open files is no fault of the file.
    """
    try:
        yield
    except LorakitError:
        raise
    except Exception as error:  # libraries raise a dozen kinds, SafetensorError among them
        if lacking(error):
            raise
        if broken := broken_installation(error):
            raise broken from error
        raise InputError(f"{what}: {_said(error)}") from error


def broken_installation(error: BaseException) -> UnavailableError | None:
    """The error as one about the installation, where it was raised while a package was being imported; else None.

    Libraries import their parts when they are first used, so that a torchvision of another torch looks like a fault of
    the file that is just being read.
    """
    raised = list(causes(error))
    package = next(filter(None, map(_not_imported, reversed(raised))), "")  # the first cause knows it best
    if not package:
        return None
    first = raised[-1]
    needed = (getattr(first, "name", None) or "").partition(".")[0]  # of an ImportError: what was looked for
    together = "torch" if package.startswith("torch") else ""  # torchvision and torchaudio are built for one torch
    names = " ".join(dict.fromkeys(name for name in (together, package, needed) if name))
    return UnavailableError(
        f"the installation is broken: {package} cannot be imported ({_said(first).rstrip('.')})\n"
        f"install versions that go together: pip install --upgrade --force-reinstall {names}"
    )


def _said(error: BaseException) -> str:
    """The error's text on one line that is not too long for a sentence."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _not_imported(error: BaseException) -> str:
    """The package, not lorakit, that was being imported when the error was raised; "" where none was."""
    module = last = ""
    frame = error.__traceback__
    while frame is not None:
        last = str(frame.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if frame.tb_frame.f_code.co_name == "<module>":  # the body of a module is executed when it is imported
            module = last
        frame = frame.tb_next
    if module in ("", "lorakit", "__main__"):
        module = (error.name or last).partition(".")[0] if isinstance(error, ImportError) else ""
    return "" if module in ("lorakit", "__main__") else module
