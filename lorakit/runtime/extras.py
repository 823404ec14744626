"""Packages that only some options need."""

import importlib
from types import ModuleType

from lorakit.errors import UsageError


def need(package: str, extra: str, why: str) -> ModuleType:
    """The package; UsageError with the line that installs it where it is missing. `why` is the option that asks."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as missing:
        if missing.name != package.partition(".")[0]:
            raise  # the package is there, and lacks one of its own
        raise UsageError(f"{why} needs {package}: pip install 'lorakit[{extra}]'") from None
