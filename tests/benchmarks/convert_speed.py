"""inspect and convert of a 150 MB SDXL adapter beside `cp`, each a process of its own.

python -m tests.benchmarks.convert_speed
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMES = 5


def adapter(path: Path, rank: int = 18) -> None:
    """Every linear and convolution module of SDXL in kohya's names, float16: 143 MB at rank 18."""
    import numpy as np

    from lorakit.families import table
    from lorakit.io import safetensors
    from lorakit.targets import kohya_name_of

    draw, names, tensors = np.random.default_rng(0), kohya_name_of("sdxl"), {}
    for module, shape in table("sdxl").items():
        if len(shape) > 1:
            kernel = [1] * (len(shape) - 2)
            tensors[f"{names[module]}.lora_down.weight"] = draw.standard_normal((rank, *shape[1:]), "f4").astype("f2")
            tensors[f"{names[module]}.lora_up.weight"] = draw.standard_normal((shape[0], rank, *kernel), "f4").astype(
                "f2"
            )
            tensors[f"{names[module]}.alpha"] = np.float32(rank / 2)
    safetensors.write(path, tensors, {})


def least(command: list[str], clean: list[Path]) -> tuple[float, float]:
    """(least wall seconds of TIMES runs, peak memory in MB of the last)."""
    seconds, peak = [], 0.0
    for _ in range(TIMES):
        for path in clean:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        seconds.append(time.perf_counter() - start)
        assert status == 0, command
        peak = used.ru_maxrss / 1024
    return min(seconds), peak


def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        source, out = folder / "a.safetensors", folder / "b.safetensors"
        # A child's peak begins at its parent's, so the parent stays small.
        subprocess.run([sys.executable, "-m", "tests.benchmarks.convert_speed", str(source)], check=True)
        run = [sys.executable, "-m", "lorakit"]
        print(f"{source.stat().st_size / 1e6:.0f} MB, least of {TIMES}")
        copy, _ = least(["cp", str(source), str(out)], [out])
        synced, _ = least(["sh", "-c", f"cp {source} {out} && sync {out}"], [out])
        bare, base = least([sys.executable, "-c", "import numpy, lorakit.cli"], [])
        print(f"cp {copy:.3f} s, cp and sync {synced:.3f} s; interpreter with numpy {bare:.3f} s, {base:.0f} MB")
        for what, options in {
            "inspect": ["inspect", str(source)],
            "convert, same format": ["convert", str(source), str(out)],
            "convert to diffusers": ["convert", str(source), str(out), "--to", "diffusers"],
            "convert to peft": ["convert", str(source), str(folder / "p"), "--to", "peft"],
            "convert to bfloat16": ["convert", str(source), str(out), "--save-dtype", "bfloat16"],
        }.items():
            seconds, peak = least([*run, *options], [out, folder / "p"])
            print(f"{what}: {seconds:.3f} s, {seconds - bare:.3f} s over the imports, peak {peak:.0f} MB")


if __name__ == "__main__":
    adapter(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
