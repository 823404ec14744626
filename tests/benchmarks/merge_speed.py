"""Merge of two rank-32 adapters to rank 32, as a whole program and by itself, beside the way of dense deltas.

python -m tests.benchmarks.merge_speed [sd1|sdxl]

The peers' way (sd-scripts' svd_merge_lora, PEFT's svd merges) forms each module's dense delta and takes its singular
value decomposition; that is timed on a sample of shapes, with the economy form that they would do better to use, and
extrapolated to all modules.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RANK = 32


def linear_modules(family: str) -> dict[str, tuple[int, ...]]:
    """The UNet's attention and feed-forward layers: 722 of SDXL."""
    from lorakit.families import table

    return {
        name: shape
        for name, shape in table(family).items()
        if (name.startswith("unet.") and "transformer_blocks" in name and len(shape) == 2)
        or name.endswith(("proj_in", "proj_out"))
    }  # fmt: skip


def adapter(path: Path, family: str, seed: int) -> None:
    import numpy as np

    from lorakit.io import safetensors
    from lorakit.targets import kohya_name_of

    draw, names, tensors = np.random.default_rng(seed), kohya_name_of(family), {}
    for module, shape in linear_modules(family).items():
        kernel = [1] * (len(shape) - 2)
        tensors[f"{names[module]}.lora_down.weight"] = draw.standard_normal((RANK, *shape[1:]), "f4").astype("f2")
        tensors[f"{names[module]}.lora_up.weight"] = draw.standard_normal((shape[0], RANK, *kernel), "f4").astype("f2")
        tensors[f"{names[module]}.alpha"] = np.float32(RANK / 2)
    safetensors.write(path, tensors, {})


def measured(command: list[str]) -> tuple[float, float, float]:
    """(wall seconds, CPU seconds, peak MB) of a process."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    assert status == 0, command
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def arithmetic(family: str) -> None:
    """CPU seconds of the sums alone, one thread, and of the dense way."""
    import torch

    from lorakit.lowrank.compress import spectrum
    from lorakit.lowrank.sums import decompose

    torch.set_num_threads(1)
    shapes = [(shape[0], shape[1]) for shape in linear_modules(family).values()]
    random.Random(0).shuffle(shapes)

    def seconds(work, chosen):
        spent = 0.0
        for out, fan_in in chosen:
            up, down = torch.randn(out, 2 * RANK), torch.randn(2 * RANK, fan_in)
            start = time.perf_counter()
            work(up, down, (out, fan_in))
            spent += time.perf_counter() - start
        return spent

    def dense(up, down, shape):
        torch.linalg.svd(up @ down, full_matrices=False)

    print(f"arithmetic of {len(shapes)} modules, one thread:")
    print(f"  Gram and Cholesky (this)     {seconds(lambda u, d, s: decompose(u, d, s, RANK), shapes):8.2f} s")
    print(f"  Householder's QR in float64  {seconds(lambda u, d, s: spectrum(u, d), shapes):8.2f} s")
    # One module of each shape stands for all of its shape.
    total = sum(seconds(dense, [shape]) * shapes.count(shape) for shape in set(shapes))
    print(
        f"  dense, economy SVD           {total:8.2f} s  (one module of each of {len(set(shapes))} shapes, extrapolated)"
    )


def main(family: str) -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        files = [folder / "a.safetensors", folder / "b.safetensors"]
        for i, file in enumerate(files):  # a child's peak begins at its parent's, so the parent stays small
            subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.merge_speed", family, str(file), str(i)], check=True
            )
        run = [sys.executable, "-m", "lorakit", "merge", *map(str, files), "-f", "-o", str(folder / "m.safetensors")]
        print(f"{family}, two files of {files[0].stat().st_size / 1e6:.0f} MB")
        for label, command in (
            ("cat of both", ["sh", "-c", f"cat {files[0]} {files[1]} > {folder}/c"]),
            ("python -c 'import torch'", [sys.executable, "-c", "import torch"]),
            ("merge --rank 32", [*run, "--rank", "32"]),
            ("merge --rank 32, float16", [*run, "--rank", "32", "--save-dtype", "float16"]),
            ("merge --rank full", run),
        ):
            best = min((measured(command) for _ in range(3)), key=lambda x: x[1])
            print(f"  {label:26} {best[0]:6.2f} s wall {best[1]:6.2f} s CPU {best[2]:6.0f} MB")
    subprocess.run([sys.executable, "-m", "tests.benchmarks.merge_speed", family, "arithmetic"], check=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [family, "arithmetic"]:
            arithmetic(family)
        case [family, path, seed]:
            adapter(Path(path), family, int(seed))
        case _:
            main(sys.argv[1] if len(sys.argv) > 1 else "sd1")
