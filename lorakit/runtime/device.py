"""Where to compute, in which number format."""

import time
from functools import cache

import torch

from lorakit.dtypes import FLOATS
from lorakit.errors import UsageError
from lorakit.runtime import platform


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU; UsageError for a device that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdigit()):
        raise UsageError(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[kind]
    if not there or (kind == "cuda" and number and int(number) >= torch.cuda.device_count()):
        raise UsageError(f"--device {name}: this machine has no such device; try --device auto")
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is float32 on the CPU (the same bytes each time) and bfloat16 or float16 on an accelerator."""
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return torch.float16 if device.type == "mps" else torch.float32
    if name not in FLOATS:
        raise UsageError(f"--dtype {name}: expected auto, {', '.join(FLOATS)}")
    return torch_dtype(name)


def torch_dtype(name: str) -> torch.dtype:
    """The number format that a name of `dtypes.FLOATS` stands for."""
    found: torch.dtype = getattr(torch, name)
    return found


@cache
def gain_of_bfloat16() -> float:
    """How many times as fast this CPU multiplies matrices in bfloat16 as in float32, measured in some milliseconds; 1 where
    it has no units for that (Intel's AMX)."""
    if not getattr(torch.cpu, "_is_amx_tile_supported", bool)():
        return 1.0

    def seconds(dtype: torch.dtype) -> float:
        x, weight = torch.ones(256, 1280, dtype=dtype), torch.ones(1280, 1280, dtype=dtype)
        spent = []
        for _ in range(4):
            started = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            spent.append(time.perf_counter() - started)
        return min(spent[1:])

    return seconds(torch.float32) / seconds(torch.bfloat16)


def peak_memory(device: torch.device) -> int:
    """Bytes: the most the device has held for this process, or on the CPU the most the process has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return platform.peak_memory()
