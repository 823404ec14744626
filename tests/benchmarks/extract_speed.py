"""Extraction of rank 32: the arithmetic beside an economy SVD, and the whole program beside reading both files.

python -m tests.benchmarks.extract_speed [sd1|sdxl] [RANK]          one module of each shape, extrapolated to all
python -m tests.benchmarks.extract_speed [sd1|sdxl] [RANK] program  the program on two models made for it (4 or 14 GB of disk)

The deltas are random: 64 directions with singular values falling as k^-0.7 and a tenth of the energy in white noise, as
research on fine-tuned models uses. Real ones differ. Peers (sd-scripts, LyCORIS) take a full SVD of every module.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.benchmarks.merge_speed import measured


def shapes(family: str) -> dict[str, tuple[int, ...]]:
    """The linear layers and convolutions that have an adapter: transformers, text encoders, resnets and samplers."""
    from lorakit.families import table

    return {
        name: shape
        for name, shape in table(family).items()
        if len(shape) > 1 and any(word in name for word in ("attention", "attn", "mlp", "resnets", "samplers"))
    }


def arithmetic(family: str, rank: int) -> None:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    import numpy as np

    from lorakit.lowrank.certified import SpectrumRequest
    from lorakit.lowrank.dense import DenseDelta
    from lorakit.lowrank.gram import by_gram
    from lorakit.lowrank.randomised import leading
    from tests.support.matrices import fine_tuned

    counts: dict[tuple[int, ...], int] = {}
    for shape in shapes(family).values():
        flat = (shape[0], shape[1] * (shape[2] * shape[3] if len(shape) == 4 else 1))
        counts[(*flat, int(len(shape) == 4 and shape[2] > 1))] = (
            counts.get((*flat, int(len(shape) == 4 and shape[2] > 1)), 0) + 1
        )
    totals = {kind: [0.0, 0.0, 0.0] for kind in ("linear", "3x3")}
    worst, proven = 1.0, 1.0
    print(
        f"{'shape':>14} {'count':>5} {'fast':>8} {'exact':>8} {'SVD':>8}   ms a module; share of the optimum's energy, proven"
    )
    for (out, into, kernel), count in sorted(counts.items()):
        delta, took = fine_tuned(out, into), []
        k = min(rank, out, into)

        def timed(work, took=took):
            start = time.process_time()
            found = work()
            took.append(time.process_time() - start)
            return found

        for _ in range(2 if min(out, into) < 700 else 0):  # what comes first costs more
            leading(DenseDelta(delta), delta.shape, SpectrumRequest(k))
        found = timed(lambda d=delta, k=k: leading(DenseDelta(d), d.shape, SpectrumRequest(k)))
        exact = timed(lambda d=delta, k=k: by_gram(DenseDelta(d), d.shape, SpectrumRequest(k)))
        if found is None:
            found, took[0] = exact, took[0] + took[1]  # what could not be proven is done again, exactly
        s = timed(lambda d=delta: np.linalg.svd(d, full_matrices=False)[1])
        worst = min(worst, float((found.s.astype("f8") ** 2).sum() / (s[:k].astype("f8") ** 2).sum()))
        proven = min(proven, found.of_optimum(k))
        for i, seconds in enumerate(took):
            totals["3x3" if kernel else "linear"][i] += seconds * count
        print(
            f"{out:>6} x {into:<6}{count:>5} {1e3 * took[0]:8.1f} {1e3 * took[1]:8.1f} {1e3 * took[2]:8.1f}   "
            f"{found.of_optimum(k):.6f}",
            flush=True,
        )
    for kind, (fast, exact_seconds, svd) in totals.items():
        print(
            f"{family}, rank {rank}, {kind}: fast {fast:.1f} s, exact {exact_seconds:.1f} s, economy SVD {svd:.0f} s of CPU, one thread "
            "(one module of each shape timed, times their number)"
        )
    print(f"energy beside the optimum's: at least {worst:.6f} measured, {proven:.6f} proven everywhere")


def make(folder: Path, family: str) -> None:
    """Two models in float16 that differ in all weights of `shapes`; written as they are made, in 300 MB of memory."""
    import numpy as np

    from lorakit.arrays import Stored, raw
    from lorakit.families import FAMILIES
    from lorakit.io import safetensors

    chosen, pool = shapes(family), np.random.default_rng(0).standard_normal(1 << 25, "f4")

    def numbers(seed: int, count: int) -> np.ndarray:
        start = seed * 7919 % (len(pool) - count)
        return pool[start : start + count]

    def made(seed: int, name: str, shape: tuple[int, ...], tuned: bool) -> memoryview:
        count = int(np.prod(shape))
        base = (numbers(seed, count) * np.float32(0.03)).astype("f2")
        if tuned and name in chosen:
            columns = count // shape[0]
            up = numbers(seed + 1, shape[0] * 64).reshape(-1, 64) * (np.arange(1, 65) ** -0.7).astype("f4")
            delta = (up @ numbers(seed + 2, 64 * columns).reshape(64, columns)).reshape(-1)
            noise = numbers(seed + 3, count)[::-1]
            delta += noise * np.float32(np.linalg.norm(delta) / np.linalg.norm(noise) / 3)
            delta *= np.float32(0.02 * 0.03 * count**0.5 / np.linalg.norm(delta))
            base = (base + delta).astype("f2")
        return raw(base)

    parts: dict[str, dict[str, tuple[int, str, tuple[int, ...]]]] = {}
    for seed, (name, shape) in enumerate(FAMILIES[family].weights(), 1):
        part, _, path = name.partition(".")
        parts.setdefault(part, {})[f"{path}.weight"] = (97 * seed, name, shape)
    for model in ("base", "tuned"):
        (folder / model).mkdir(parents=True, exist_ok=True)
        (folder / model / "model_index.json").write_text("{}")
        for part, keys in parts.items():
            tensors = {key: Stored("F16", one[2], partial(made, *one, model == "tuned")) for key, one in keys.items()}
            file = "diffusion_pytorch_model" if part == "unet" else "model"
            (folder / model / part).mkdir(parents=True, exist_ok=True)
            safetensors.write(folder / model / part / f"{file}.safetensors", tensors, {}, hashed=False)


def program(family: str, rank: int) -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        # A child's peak begins at its parent's, so the parent stays small.
        subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.extract_speed", family, str(rank), "make", name], check=True
        )
        timed(folder, family, rank)


def timed(folder: Path, family: str, rank: int) -> None:
    base, tuned = folder / "base", folder / "tuned"
    files = sorted(str(file) for model in (base, tuned) for file in model.rglob("*.safetensors"))
    size = sum(Path(file).stat().st_size for file in files) / 2
    out = folder / "x.safetensors"
    run = [sys.executable, "-m", "lorakit", "extract", str(tuned), "--base", str(base), "-f", "-o", str(out), "-q"]
    run += ["--rank", str(rank), "--json"]
    print(f"{family}, rank {rank}, two models of {size / 1e9:.2f} GB in float16")
    for label, command in (
        ("cat of both", ["sh", "-c", f"cat {' '.join(files)} > /dev/null"]),
        ("extract, linear", [*run, "--target", "attention+ff"]),
        ("extract, all", run),
    ):
        best = min((measured(command) for _ in range(4)), key=lambda x: x[0])
        print(f"  {label:26} {best[0]:6.2f} s CPU {best[1]:6.2f} s wall {best[2]:6.0f} MB", flush=True)
    found = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    print(
        f"  proven of the best adapter's energy, in every of {found['layers']} modules: at least "
        f"{found['certificate']['share_of_optimum']:.5f}"
    )


if __name__ == "__main__":
    which, ranks = [*sys.argv[1:2], "sd1"][0], int([*sys.argv[2:3], "32"][0])
    match sys.argv[3:]:
        case ["program"]:
            program(which, ranks)
        case ["make", folder]:
            make(Path(folder), which)
        case ["timed", folder]:
            timed(Path(folder), which, ranks)
        case _:
            arithmetic(which, ranks)
