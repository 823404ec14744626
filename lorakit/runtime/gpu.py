"""Whether there is a GPU, for programs that would rather not load torch to hear that there is none."""

from __future__ import annotations

import ctypes
import sys

from lorakit.errors import UsageError

_DRIVER = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}


def cpu_or_cuda(name: str) -> str:
    """ "cpu" or the CUDA device that `--device` names; UsageError where it is not there, or is of another kind.

    torch is loaded only where CUDA is asked for or the driver is installed.
    """
    kind = name.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda") or (name != kind and kind != "cuda"):
        raise UsageError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if name == "cpu" or (name == "auto" and not driver()):
        return "cpu"
    from lorakit.runtime.device import pick_device

    found = str(pick_device(name))
    return found if found.startswith("cuda") else "cpu"


def driver() -> bool:
    """Whether NVIDIA's driver is installed."""
    library = _DRIVER.get(sys.platform)
    if library is None:
        return False
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
