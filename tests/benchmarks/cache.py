"""Opening and reading a latents cache of 5,000 pictures: one packed file against a safetensors file an entry.

python -m tests.benchmarks.cache [pictures]
"""

import hashlib
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from lorakit.io.pack import Pack

SHAPE = (4, 64, 64)  # SD1 at 512 px


def timed(what: str, work: object) -> None:
    started, cpu = time.perf_counter(), time.process_time()
    found = work()  # type: ignore[operator]
    print(f"{what:46} {time.perf_counter() - started:6.2f} s, CPU {time.process_time() - cpu:6.2f} s  {found}")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    keys = [hashlib.sha256(str(i).encode()).digest() for i in range(count)]
    draw = np.random.default_rng(0)
    arrays = {"mean": draw.standard_normal(SHAPE, np.float32), "spread": draw.standard_normal(SHAPE, np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        pack = Pack(Path(folder) / "a.pack")

        def write() -> str:
            for key in keys:
                pack.put(key, arrays)
            return f"{pack.path.stat().st_size >> 20} MiB"

        def write_files() -> str:
            for key in keys:
                save_file(arrays, f"{folder}/{key.hex()}.safetensors")
            return ""

        timed("write, packed", write)
        timed("open, packed", lambda: f"{len(Pack(pack.path))} entries")
        timed("read and check all, packed", lambda: sum(pack.get(key) is not None for key in keys))
        timed("one entry, packed", lambda: pack.get(keys[count // 2]) is not None)
        timed("write, a file an entry", write_files)
        timed(
            "read all, a file an entry (no checksum)",
            lambda: sum(bool(load_file(f"{folder}/{key.hex()}.safetensors")) for key in keys),
        )


if __name__ == "__main__":
    main()
