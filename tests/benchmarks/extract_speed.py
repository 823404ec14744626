"""Extraction of rank 32: the arithmetic beside an economy SVD, and the whole program beside reading both files.

python -m tests.benchmarks.extract_speed [sd1|sdxl] [RANK]          one module of each shape, extrapolated to all
python -m tests.benchmarks.extract_speed [sd1|sdxl] [RANK] program  the program on two checkpoints made for it (8 GB of disk)

The deltas are random: 64 directions with singular values falling as k^-0.7 and a tenth of the energy in white noise, as
research on fine-tuned models uses. Real ones differ. Peers (sd-scripts, LyCORIS) take a full SVD of every module.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.merge_speed import measured


def shapes(family: str) -> dict[str, tuple[int, ...]]:
    """The linear layers and convolutions that have an adapter: transformers, text encoders, resnets and samplers."""
    from lorakit.families import table

    return {
        name: shape
        for name, shape in table(family).items()
        if len(shape) > 1 and any(word in name for word in ("attention", "attn", "mlp", "resnets", "samplers"))
    }  # fmt: skip


def arithmetic(family: str, rank: int) -> None:
    import torch

    from lorakit.lowrank.certified import Wanted
    from lorakit.lowrank.gram import by_gram
    from lorakit.lowrank.randomised import leading
    from tests.lowrank.matrices import fine_tuned

    torch.set_num_threads(1)
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
            leading(delta, tuple(delta.shape), Wanted(k))
        found = timed(lambda d=delta, k=k: leading(d, tuple(d.shape), Wanted(k)))
        exact = timed(lambda d=delta, k=k: by_gram(d, tuple(d.shape), Wanted(k)))
        if found is None:
            found, took[0] = exact, took[0] + took[1]  # what could not be proven is done again, exactly
        s = timed(lambda d=delta: torch.linalg.svd(d, full_matrices=False)[1])
        worst = min(worst, float(found.s.double().square().sum() / s[:k].double().square().sum()))
        proven = min(proven, found.of_optimum(k))
        for i, seconds in enumerate(took):
            totals["3x3" if kernel else "linear"][i] += seconds * count
        print(
            f"{out:>6} x {into:<6}{count:>5} {1e3 * took[0]:8.1f} {1e3 * took[1]:8.1f} {1e3 * took[2]:8.1f}   "
            f"{found.of_optimum(k):.6f}", flush=True,
        )  # fmt: skip
    for kind, (fast, exact_seconds, svd) in totals.items():
        print(
            f"{family}, rank {rank}, {kind}: fast {fast:.1f} s, exact {exact_seconds:.1f} s, economy SVD {svd:.0f} s of CPU, one thread "
            "(one module of each shape timed, times their number)"
        )
    print(f"energy beside the optimum's: at least {worst:.6f} measured, {proven:.6f} proven everywhere")


def make(folder: Path, family: str) -> None:
    """Two checkpoints in float16 that differ in all weights of `shapes`."""
    import numpy as np
    import torch

    from lorakit.families import FAMILIES
    from lorakit.io import safetensors
    from tests.lowrank.matrices import fine_tuned

    chosen, files = shapes(family), ({}, {})
    names = {
        f"unet.{ours}": f"model.diffusion_model.{theirs}" for ours, theirs in FAMILIES[family].unet.original_names()
    }
    prefix = "cond_stage_model.transformer." if family == "sd1" else "conditioner.embedders.0.transformer."
    draw = np.random.default_rng(0)
    for name, shape in FAMILIES[family].weights():
        key = names.get(name, name.replace("text_encoder.", prefix)) + ".weight"
        if name.startswith("text_encoder_2"):
            continue  # OpenCLIP's spelling; the figures are of the rest
        base = (draw.standard_normal(shape, "f4") * 0.03).astype("f2")
        files[0][key] = files[1][key] = base
        if name in chosen:
            delta = fine_tuned(shape[0], int(np.prod(shape[1:])), len(files[0]))
            delta *= 0.02 * float(torch.from_numpy(base.astype("f4")).norm() / delta.norm())
            files[1][key] = (base + delta.numpy().reshape(shape)).astype("f2")
    for file, tensors in zip(("base", "tuned"), files, strict=True):
        safetensors.write(folder / f"{file}.safetensors", tensors, {}, hashed=False)


def program(family: str, rank: int) -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        # A child's peak begins at its parent's, so the parent stays small.
        subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.extract_speed", family, str(rank), "make", name], check=True
        )
        base, tuned = folder / "base.safetensors", folder / "tuned.safetensors"
        run = [
            sys.executable,
            "-m",
            "lorakit",
            "extract",
            str(tuned),
            "--base",
            str(base),
            "-f",
            "-o",
            f"{name}/x.safetensors",
        ]
        run += ["--rank", str(rank)]
        print(f"{family}, rank {rank}, two files of {base.stat().st_size / 1e9:.2f} GB in float16")
        for label, command in (
            ("cat of both", ["sh", "-c", f"cat {base} {tuned} > /dev/null"]),
            ("python -c 'import torch'", [sys.executable, "-c", "import torch"]),
            ("extract, linear", [*run, "--target", "attention+ff"]),
            ("extract, all", run),
        ):
            best = min((measured(command) for _ in range(2)), key=lambda x: x[1])
            print(f"  {label:26} {best[0]:6.2f} s wall {best[1]:6.2f} s CPU {best[2]:6.0f} MB", flush=True)


if __name__ == "__main__":
    which, ranks = [*sys.argv[1:2], "sd1"][0], int([*sys.argv[2:3], "32"][0])
    match sys.argv[3:]:
        case ["program"]:
            program(which, ranks)
        case ["make", folder]:
            make(Path(folder), which)
        case _:
            arithmetic(which, ranks)
