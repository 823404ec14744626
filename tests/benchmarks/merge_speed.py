"""Merges of two rank-32 adapters as whole programs, beside the byte limit, dense deltas, and `cp` for `--into`.

python -m tests.benchmarks.merge_speed [sd1|sdxl|into]

Seconds are the least of three runs, CPU is user and system of the whole process, and the sides of a comparison take
turns. The peers' way (sd-scripts' svd_merge_lora, PEFT's svd merges) forms each module's dense delta and takes its
singular value decomposition; that is timed on one module of each shape, with the economy form that they would do
better to use, and extrapolated to all modules. `into` puts both SD1.5 adapters into a checkpoint of 2.1 GB in float16.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

RANK = 32
_WEIGHTS = (0.7, 0.4)


def linear_modules(family: str) -> dict[str, tuple[int, ...]]:
    """The UNet's attention and feed-forward layers: 192 of SD1.5, 722 of SDXL."""
    from lorakit.families import table

    return {
        name: shape
        for name, shape in table(family).items()
        if (name.startswith("unet.") and "transformer_blocks" in name and len(shape) == 2)
        or name.endswith(("proj_in", "proj_out"))
    }


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


def checkpoint(path: Path) -> None:
    """The weights of SD1.5's UNet and text encoder under a single file's names, and as many bytes more as its VAE has."""
    import numpy as np

    from lorakit.families import FAMILIES
    from lorakit.io import safetensors

    draw, tensors = np.random.default_rng(9), {}
    names = {f"unet.{a}": f"model.diffusion_model.{b}" for a, b in FAMILIES["sd1"].unet.original_names()}
    shapes = dict(FAMILIES["sd1"].weights()) | {f"vae.{i}": (512, 512, 3, 3) for i in range(35)}
    shapes["text_encoder.text_model.embeddings.token_embedding"] = (49408, 768)
    for name, shape in shapes.items():
        key = names.get(name, name.replace("text_encoder.", "cond_stage_model.transformer."))
        tensors[f"{key}.weight"] = (draw.standard_normal(shape, "f4") * np.float32(0.03)).astype("f2")
    safetensors.write(path, tensors, {}, hashed=False)


def measured(command: Sequence[str]) -> tuple[float, float, float]:
    """(CPU seconds, wall seconds, peak MB) of a process; modules are compiled already, as in any installation."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(child.pid, 0)
    assert status == 0, command
    return used.ru_utime + used.ru_stime, time.perf_counter() - start, used.ru_maxrss / 1024


def compare(commands: dict[str, Sequence[str]]) -> dict[str, tuple[float, float, float]]:
    """Each command's least CPU and wall seconds and largest peak, the commands taking turns."""
    found: dict[str, list[tuple[float, float, float]]] = {label: [] for label in commands}
    for _ in range(3):
        for label, command in commands.items():
            found[label].append(measured(command))
    best = {label: (min(x[0] for x in r), min(x[1] for x in r), max(x[2] for x in r)) for label, r in found.items()}
    for label, (cpu, wall, peak) in best.items():
        print(f"  {label:32} {cpu:6.2f} s CPU {wall:6.2f} s wall {peak:6.0f} MB")
    return best


def dense_way(family: str) -> None:
    """CPU seconds of dense deltas and an economy SVD, one thread."""
    import numpy as np

    shapes = [(shape[0], shape[1]) for shape in linear_modules(family).values()]
    total = 0.0
    for out, fan_in in sorted(set(shapes)):
        draw = np.random.default_rng(0)
        up, down = draw.standard_normal((out, 2 * RANK), "f4"), draw.standard_normal((2 * RANK, fan_in), "f4")
        start = time.process_time()
        np.linalg.svd(up @ down, full_matrices=False)
        total += (time.process_time() - start) * shapes.count((out, fan_in))
    print(
        f"  dense, economy SVD               {total:6.2f} s CPU  (one module of each of {len(set(shapes))} shapes, extrapolated)"
    )


def quality(family: str, files: Sequence[str], merged: str) -> None:
    """How far the merged file is from the optimum, against float64 SVDs of one module of each shape up to 1280."""
    import numpy as np

    from lorakit.formats import files as formats

    sources, result = [formats.read(Path(file)).modules for file in files], formats.read(Path(merged)).modules
    seen, worst = set(), 0.0
    for name, shape in linear_modules(family).items():
        if shape in seen or max(shape) > 1280:
            continue
        seen.add(shape)
        terms = [delta[name].delta().reshape(shape[0], -1).astype("f8") for delta in sources]
        whole = sum(w * term for w, term in zip(_WEIGHTS, terms, strict=True))
        best = np.linalg.norm(np.linalg.svd(whole, compute_uv=False)[RANK:])
        worst = max(worst, float(np.linalg.norm(result[name].delta().reshape(shape[0], -1) - whole) / best))
    print(f"  error over the optimum's, worst of {len(seen)} shapes: {worst:.6f}")


def child(*arguments: str) -> None:
    """A step in a process of its own: a child's peak begins at its parent's, so the parent stays small."""
    subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.merge_speed", *arguments],
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )


def adapters(folder: Path, family: str) -> list[str]:
    files = [str(folder / name) for name in ("a.safetensors", "b.safetensors")]
    for i, file in enumerate(files):
        child("make", family, file, str(i))
    return files


def command(files: Sequence[str], *more: str) -> list[str]:
    weighted = [f"{file}:{weight}" for file, weight in zip(files, _WEIGHTS, strict=True)]
    return [sys.executable, "-m", "lorakit", "merge", *weighted, "-f", *more]


def merges(family: str) -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        files, out = adapters(Path(name), family), f"{name}/m.safetensors"
        print(f"{family}, two files of {Path(files[0]).stat().st_size / 1e6:.0f} MB in float16, rank {RANK}")
        compare(
            {
                "cat of both": ["sh", "-c", f"cat {files[0]} {files[1]} > {name}/c"],
                "python -c 'import numpy'": [sys.executable, "-c", "import numpy"],
                "merge --rank 32": command(files, "--rank", "32", "-o", out),
                "merge --rank 32, float16": command(
                    files, "--rank", "32", "--save-dtype", "float16", "-o", f"{name}/h.safetensors"
                ),
                "merge --rank full": command(files, "-o", f"{name}/f.safetensors"),
            }
        )
        child("quality", family, *files, out)
        child("dense", family)


def into() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        files, model, out = adapters(Path(name), "sd1"), f"{name}/model.safetensors", f"{name}/out.safetensors"
        child("checkpoint", model)
        print(f"two SD1.5 adapters into a checkpoint of {Path(model).stat().st_size / 1e9:.2f} GB in float16")
        found = compare(
            {
                "cp and sync": ["sh", "-c", f"rm -f {out}; cp {model} {name}/copy && sync {name}/copy; rm {name}/copy"],
                "merge --into": command(files, "--into", model, "-o", out),
            }
        )
        ratio = found["merge --into"][1] / found["cp and sync"][1]
        print(f"  wall of merge --into over cp and sync: {ratio:.2f}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", family, path, seed]:
            adapter(Path(path), family, int(seed))
        case ["checkpoint", path]:
            checkpoint(Path(path))
        case ["quality", family, a, b, merged]:
            quality(family, [a, b], merged)
        case ["dense", family]:
            dense_way(family)
        case ["into"]:
            into()
        case _:
            merges(sys.argv[1] if len(sys.argv) > 1 else "sd1")
