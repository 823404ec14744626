"""Independent pieces of work on the cores of a CPU."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_thread_each() -> None:
    """Keep numpy's products to the thread that asks for them; call it before numpy is imported.

    Products of thin factors are so short that OpenBLAS' threads would mostly wait for one another; the modules of an
    adapter go through `cores()` threads of ours instead.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def each(work: Callable[[Item], Result], items: Iterable[Item], count: int) -> Iterator[Result]:
    """work(item) for each, in order, `count` at a time, each on one thread of its own.

    A small model spends more time at the barriers of threaded operators than in arithmetic; and on one thread a result
    does not depend on how many threads there are. torch is told so where it is in use, and not imported for it.
    """

    def one(item: Item) -> Result:
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)  # OpenMP keeps this by thread
        return work(item)

    with ThreadPoolExecutor(max(1, count)) as pool:
        yield from pool.map(one, items)
